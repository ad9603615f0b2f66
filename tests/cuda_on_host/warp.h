// Barriers, votes and shuffles, with CUDA's names and meaning. Each takes the place that it is called from along, for
// the text of errors.
#pragma once

#include <cstring>
#include <type_traits>

#include "block.h"

inline void __syncthreads(cuda_on_host::Site site = cuda_on_host::here()) {
  cuda_on_host::barrier(cuda_on_host::Operation::kSyncThreads, 0, site);
}
inline int __syncthreads_or(int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::barrier(cuda_on_host::Operation::kSyncThreadsOr, predicate, site);
}
inline int __syncthreads_and(int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::barrier(cuda_on_host::Operation::kSyncThreadsAnd, predicate, site);
}
inline int __syncthreads_count(int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::barrier(cuda_on_host::Operation::kSyncThreadsCount, predicate, site);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, cuda_on_host::Site site = cuda_on_host::here()) {
  cuda_on_host::warp_operation({cuda_on_host::Operation::kSyncWarp, mask}, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return (unsigned)cuda_on_host::warp_operation({cuda_on_host::Operation::kBallot, mask, predicate != 0}, site);
}
inline int __any_sync(unsigned mask, int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return (int)cuda_on_host::warp_operation({cuda_on_host::Operation::kAny, mask, predicate != 0}, site);
}
inline int __all_sync(unsigned mask, int predicate, cuda_on_host::Site site = cuda_on_host::here()) {
  return (int)cuda_on_host::warp_operation({cuda_on_host::Operation::kAll, mask, predicate != 0}, site);
}

namespace cuda_on_host {

template <typename T> T shuffle(Operation operation, unsigned mask, T value, unsigned argument, int width, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles int, unsigned, long, long long, float and double");
  WarpCall call = {operation, mask, 0, sizeof(T), argument, width};
  std::memcpy(&call.value, &value, sizeof(T));
  const uint64_t bits = warp_operation(call, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

} // namespace cuda_on_host

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::shuffle(cuda_on_host::Operation::kShuffle, mask, value, (unsigned)lane, width, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::shuffle(cuda_on_host::Operation::kShuffleUp, mask, value, delta, width, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::shuffle(cuda_on_host::Operation::kShuffleDown, mask, value, delta, width, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  cuda_on_host::Site site = cuda_on_host::here()) {
  return cuda_on_host::shuffle(cuda_on_host::Operation::kShuffleXor, mask, value, (unsigned)lane_mask, width, site);
}
