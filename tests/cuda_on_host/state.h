// What block.cpp (who runs) and synchronize.cpp (who waits for whom) share: the block that runs. Not for kernels.
#pragma once

#include <memory>
#include <string>

#include "block.h"
#include "fiber.h"

namespace cuda_on_host {

constexpr unsigned kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32;

struct Cancelled {}; // unwinds the threads of a block that failed

struct Thread {
  uint3 index;
  unsigned warp, lane;
  Fiber *fiber;
  WarpCall call; // what it waits for, and where
  Site site;
  uint64_t result; // of what it waited for
};

// Sets of lanes. A lane that has not exited runs, could run, or waits in a warp operation or at the barrier.
struct Warp {
  uint32_t live, runnable, in_call, in_barrier;
};

// Addresses that stand for the synchronizations of one block, for ThreadSanitizer. Each block gets new ones, because
// nothing orders what different blocks do.
struct Tokens {
  char barrier, warps[kMaxWarps][32];
};

struct Block {
  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  uint32_t runnable_warps;
  unsigned live, in_barrier; // threads
  Thread *first_in_barrier;  // that the others must agree with
  unsigned predicates;       // true ones at the barrier so far
  std::unique_ptr<Tokens> tokens;
  Thread *running = nullptr; // null outside of kernels
  bool cancelled;
};
extern Block g_block;

// block.cpp
std::string text(const Thread &thread);
void wake(unsigned warp, uint32_t lanes); // lets these lanes of a warp go on
void wait();                              // leaves the running thread until somebody wakes it; throws Cancelled
void fail(const std::string &message);    // ends the block; the caller then throws Cancelled if it is a kernel's call

// synchronize.cpp
void after_exit(const Thread &exited); // carries out what others waited for this thread with
std::string explain_deadlock();        // why no thread can go on

} // namespace cuda_on_host
