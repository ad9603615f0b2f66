// What the kernels and their launches stand on: the CUDA runtime, or the tests' emulation of it on the host
// (IPSM_CUDA_ON_HOST), and the few instructions that C++ has no name for.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef IPSM_CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif

#include "../gaussian.h"
#include "rasterizer.h"

namespace ipsm::cuda {

// Blocks of 256 threads that a multiprocessor is to hold where registers are short: as many as need no spilling. From
// compute capability 10 on, the compiler needs some more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kBlocksHeld = 4;
#else
constexpr int kBlocksHeld = 5;
#endif

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline void check(cudaError_t status, const char *what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

#ifdef IPSM_CUDA_ON_HOST
using cuda_on_host::launch;
#else
// Starts a kernel on a one-dimensional grid.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, const Arguments &...arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
  check(cudaGetLastError(), "launch of a kernel");
}
#endif

// Starts a kernel with `blocks` blocks; nothing happens for none.
template <typename Kernel, typename... Arguments>
void launch_blocks(Kernel kernel, int64_t blocks, int threads, cudaStream_t stream, const Arguments &...arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error("a kernel would need more than 2^31 - 1 blocks");
  launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), stream, arguments...);
}

inline int64_t blocks_for(int64_t work, int threads) { return (work + threads - 1) / threads; }

template <typename T> T *allocate(Scratch &scratch, int64_t count) {
  return static_cast<T *>(scratch.allocate(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)));
}

// 2^x and 1/x to about two units in the last place, one instruction each.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return __builtin_exp2f(x);
#endif
}

__device__ __forceinline__ float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return 1 / x;
#endif
}

// Sum over the warp's lanes, the same bits in each of them.
template <typename T> __device__ __forceinline__ T warp_sum(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ __forceinline__ float not_a_number() { return __builtin_nanf(""); }

} // namespace ipsm::cuda
