// Kernels that are wrong on purpose: what the emulation must refuse, and what the sanitizers must find.
#pragma once

#include <atomic>
#include <stdexcept>

#include "cuda_on_host.h"

namespace mistakes {

constexpr unsigned kAllLanes = 0xffffffffu;

// Counts objects that are alive: a thread that ends by another's mistake must still run its destructors.
inline std::atomic<int> g_alive = 0;
struct Alive {
  Alive() { g_alive++; }
  ~Alive() { g_alive--; }
};

// Launched with blocks of (64, 1, 1).
enum Refused {
  kTwoBarriers,       // threads of a block wait at different places
  kTwoKindsOfBarrier, // the same with __syncthreads and __syncthreads_or
  kLaneAtBarrier,     // a lane that a vote names is at the barrier
  kTwoKindsOfVote,    // the lanes of a warp do not call the same function
  kTwoMasks,          // they do not give the same mask
  kTwoSizes,          // they shuffle values of 4 and of 8 bytes
  kReadsExitedLane,   // a shuffle reads a lane that has exited
  kReadsExcludedLane, // a shuffle reads a lane that its mask leaves out
  kMaskWithoutItself, // a lane is not in its own mask
  kOddWidth,          // a shuffle's width is 12
  kThrows,            // a thread throws
  kLaunches,          // a kernel launches a kernel
  kRefusedCount
};

__global__ void nothing() {}

__global__ void refused(int mistake) {
  const Alive object;
  const unsigned i = threadIdx.x;
  if (i >= 32 && mistake > kTwoKindsOfBarrier) mistake = kRefusedCount; // the other warp does nothing wrong
  switch (mistake) {
  case kTwoBarriers:
    if (i == 33) __syncthreads();
    else __syncthreads();
    break;
  case kTwoKindsOfBarrier:
    if (i == 33) __syncthreads();
    else __syncthreads_or(1);
    break;
  case kLaneAtBarrier:
    if (i != 5) __ballot_sync(kAllLanes, 1);
    break;
  case kTwoKindsOfVote:
    if (i != 5) __any_sync(kAllLanes, 1);
    else __all_sync(kAllLanes, 1);
    break;
  case kTwoMasks:
    __syncwarp(i == 6 ? 0x60u : kAllLanes);
    break;
  case kTwoSizes:
    if (i != 5) __shfl_sync(kAllLanes, 1.0f, 0);
    else __shfl_sync(kAllLanes, 1.0, 0);
    break;
  case kReadsExitedLane:
    if (i == 5) return;
    __shfl_down_sync(kAllLanes, 1.0f, 1);
    break;
  case kReadsExcludedLane:
    if (i < 16) __shfl_xor_sync(0x0000ffffu, 1.0f, 16);
    break;
  case kMaskWithoutItself:
    __any_sync(~(1u << 5), 1);
    break;
  case kOddWidth:
    __shfl_sync(kAllLanes, 1.0f, 0, 12);
    break;
  case kThrows:
    if (i == 5) throw std::out_of_range("no such element");
    break;
  case kLaunches:
    cuda_on_host::launch(nothing, 1, 1, nullptr);
    break;
  }
  __syncthreads();
}

// Reverses (64,) values in shared memory, without or with the barrier between writing and reading.
template <bool kBarrier> __global__ void reverse(float *values) {
  __shared__ float staged[64];
  staged[threadIdx.x] = values[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  values[threadIdx.x] = staged[63 - threadIdx.x];
}

// A shuffle does not order what its lanes do with memory.
__global__ void shuffle_for_syncwarp(int *out) {
  __shared__ int staged[32];
  staged[threadIdx.x] = threadIdx.x;
  const int next = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x), threadIdx.x + 1);
  out[threadIdx.x] = staged[next];
}

// The last thread of each block adds to the same number, with a barrier before and after.
__global__ void blocks_share_a_sum(int *sum) {
  __syncthreads();
  if (threadIdx.x == blockDim.x - 1) *sum += 1;
  __syncthreads();
}

__global__ void atomic_and_plain(int *sum) {
  if (threadIdx.x == 40) *sum += 1;
  else atomicAdd(sum, 1);
}

// Compiled apart, where no bounds of the array are known.
template <typename T> __attribute__((noinline)) void put(T *to, T value) { *to = value; }

__global__ void beyond_shared(float *out, int far) {
  __shared__ float staged[64];
  put(staged + threadIdx.x + far, 1.0f);
  __syncthreads();
  out[threadIdx.x] = staged[threadIdx.x];
}

// As above in a template: without the unnamed namespace the compiler would leave its shared memory unprotected.
namespace {
template <typename T> __global__ void beyond_shared_of_template(T *out, int far) {
  __shared__ T staged[64];
  put(staged + threadIdx.x + far, T(1));
  __syncthreads();
  out[threadIdx.x] = staged[threadIdx.x];
}
} // namespace

__global__ void beyond_local(float *out, int far) {
  float own[8];
  for (int k = 0; k < 8; k++) own[k] = out[k];
  __syncthreads();
  put(own + threadIdx.x % 8 + far, 2.0f);
  out[threadIdx.x] = own[(threadIdx.x + 1) % 8];
}

__global__ void beyond_global(float *out, int far) { out[threadIdx.x + far] = 1; }

// out is not aligned as a float4 of CUDA must be.
__global__ void misaligned(float *out) { *reinterpret_cast<float4 *>(out + 1) = make_float4(1, 2, 3, 4); }

} // namespace mistakes
