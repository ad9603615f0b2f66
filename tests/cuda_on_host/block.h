// The part of the emulation that is not templates: runs a grid block by block, each block's threads as fibers.
// Kernels use it through cuda_on_host.h.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "vector_types.h"

extern uint3 threadIdx, blockIdx; // of the thread that runs
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_host {

// What a kernel did wrong, or what it threw.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where a call is in the source: the default argument of all that synchronizes.
struct Site {
  const char *file = "";
  int line = 0;
};
constexpr Site here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

// What threads can wait for. Threads that wait together must wait for the same.
enum class Operation : uint8_t {
  kSyncThreads,
  kSyncThreadsOr,
  kSyncThreadsAnd,
  kSyncThreadsCount,
  kSyncWarp,
  kBallot,
  kAny,
  kAll,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
};

// One thread's part in a warp operation.
struct WarpCall {
  Operation operation = Operation::kSyncThreads;
  uint32_t mask = 0;
  uint64_t value = 0;    // predicate or bits to hand over
  int bytes = 0;         // of the value
  uint32_t argument = 0; // a shuffle's source lane, distance or lane mask
  int width = 32;        // of a shuffle
};

// Runs body(context) once per thread. Throws Error for an impossible grid or block, and for what goes wrong inside.
void run_grid(dim3 grid, dim3 block, void (*body)(void *), void *context);

// In which order threads run between two synchronizations, and blocks after each other: 0 ascending, else shuffled, odd
// numbers with the blocks backwards. What a kernel without races computes depends on it only through what its atomics
// return and round. Every library has it, for ctypes.
extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_order(uint32_t seed);

int barrier(Operation operation, int predicate, Site site);
uint64_t warp_operation(const WarpCall &call, Site site); // a shuffle's value, or the votes

} // namespace cuda_on_host
