// In a file of its own because the toolkit's library takes long to compile.
#include "device_algorithms.h"

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
namespace {

#ifdef IPSM_CUDA_ON_HOST

template <typename Out> void sum(const int32_t *in, Out *out, int64_t count, Scratch &, cudaStream_t) {
  Out before = 0;
  for (int64_t i = 0; i < count; i++) {
    const Out after = before + in[i];
    out[i] = before;
    before = after;
  }
}

template <typename Value>
void sort(const uint32_t *keys, uint32_t *sorted_keys, const Value *values, Value *sorted_values, int64_t count,
          int bits, Scratch &, cudaStream_t) {
  const uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t i = 0; i < count; i++) sorted_keys[i] = keys[order[i]], sorted_values[i] = values[order[i]];
}

#else

template <typename T> struct Add {
  __host__ __device__ T operator()(T a, T b) const { return a + b; }
};

// Calls run(memory, bytes) twice, as CUB wants it: the first call only says how many bytes of memory it needs.
template <typename Run> void with_memory(const char *what, Scratch &scratch, const Run &run) {
  size_t bytes = 0;
  check(run(static_cast<void *>(nullptr), bytes), what);
  check(run(static_cast<void *>(allocate<char>(scratch, static_cast<int64_t>(bytes))), bytes), what);
}

template <typename Out> void sum(const int32_t *in, Out *out, int64_t count, Scratch &scratch, cudaStream_t stream) {
  with_memory("prefix sum", scratch, [&](void *memory, size_t &bytes) {
    return cub::DeviceScan::ExclusiveScan(memory, bytes, in, out, Add<Out>{}, Out{0}, static_cast<int>(count), stream);
  });
}

template <typename Value>
void sort(const uint32_t *keys, uint32_t *sorted_keys, const Value *values, Value *sorted_values, int64_t count,
          int bits, Scratch &scratch, cudaStream_t stream) {
  with_memory("radix sort", scratch, [&](void *memory, size_t &bytes) {
    return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, sorted_keys, values, sorted_values,
                                           static_cast<int>(count), 0, bits, stream);
  });
}

#endif

} // namespace

void exclusive_sum(const int32_t *in, int32_t *out, int64_t count, Scratch &scratch, cudaStream_t stream) {
  if (count > 0) sum(in, out, count, scratch, stream);
}

void exclusive_sum(const int32_t *in, int64_t *out, int64_t count, Scratch &scratch, cudaStream_t stream) {
  if (count > 0) sum(in, out, count, scratch, stream);
}

void sort_by_key(const uint32_t *keys, uint32_t *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
                 int64_t count, int bits, Scratch &scratch, cudaStream_t stream) {
  if (count > 0) sort(keys, sorted_keys, values, sorted_values, count, bits, scratch, stream);
}

void sort_by_key(const uint32_t *keys, uint32_t *sorted_keys, const Pair *values, Pair *sorted_values, int64_t count,
                 int bits, Scratch &scratch, cudaStream_t stream) {
  if (count > 0) sort(keys, sorted_keys, values, sorted_values, count, bits, scratch, stream);
}

} // namespace ipsm::cuda
