// Sorting and summing that the CUDA toolkit's library does; the standard library does it in the tests' emulation.
#pragma once

#include "runtime.cuh"

#ifdef IPSM_CUDA_ON_HOST
#include <algorithm>
#include <numeric>
#include <vector>
#else
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace ipsm::cuda {

template <typename T> struct Add {
  __host__ __device__ T operator()(T a, T b) const { return a + b; }
};

// out[i] = sum of in[0..i), in the output's type.
template <typename In, typename Out>
void exclusive_sum(const In *in, Out *out, int64_t count, Scratch &scratch, cudaStream_t stream) {
  if (count == 0) return;
#ifdef IPSM_CUDA_ON_HOST
  (void)scratch, (void)stream;
  Out sum = 0;
  for (int64_t i = 0; i < count; i++) {
    const Out next = sum + in[i];
    out[i] = sum;
    sum = next;
  }
#else
  void *memory = nullptr;
  size_t bytes = 0;
  for (int run = 0; run < 2; run++) { // the first only says how much memory it wants
    check(cub::DeviceScan::ExclusiveScan(memory, bytes, in, out, Add<Out>{}, Out{0}, static_cast<int>(count), stream),
          "prefix sum");
    if (!memory) memory = allocate<char>(scratch, static_cast<int64_t>(bytes));
  }
#endif
}

// Sorts by the lowest `bits` bits of the keys, stable.
template <typename Value>
void sort_pairs(const uint32_t *keys, uint32_t *sorted_keys, const Value *values, Value *sorted_values, int64_t count,
                int bits, Scratch &scratch, cudaStream_t stream) {
  if (count == 0) return;
#ifdef IPSM_CUDA_ON_HOST
  (void)scratch, (void)stream;
  const uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t i = 0; i < count; i++) sorted_keys[i] = keys[order[i]], sorted_values[i] = values[order[i]];
#else
  void *memory = nullptr;
  size_t bytes = 0;
  for (int run = 0; run < 2; run++) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, keys, sorted_keys, values, sorted_values,
                                          static_cast<int>(count), 0, bits, stream),
          "radix sort");
    if (!memory) memory = allocate<char>(scratch, static_cast<int64_t>(bytes));
  }
#endif
}

} // namespace ipsm::cuda
