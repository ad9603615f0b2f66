// Threads of control that switch to each other when they say so: one per CUDA thread of an emulated block.
//
// The sanitizers are told about every switch. ThreadSanitizer takes each fiber for a thread of its own, and a switch
// for no synchronization: what orders two fibers' memory accesses is only `release` and `acquire`.
#pragma once

#include <cstddef>

namespace cuda_on_host {

class Fiber {
public:
  using Entry = void (*)(Fiber &self);

  Fiber();                                     // stands for the caller's own thread of control
  Fiber(std::size_t stack_bytes, Entry entry); // `entry` must never return; rests until it is switched to
  ~Fiber();
  Fiber(const Fiber &) = delete;
  Fiber &operator=(const Fiber &) = delete;

  void switch_to(Fiber &next); // called by the running fiber on itself; returns when somebody switches back

  // For ThreadSanitizer alone: what this fiber did before it released a token happens before what another does after
  // it acquired the token. The running fiber may call them for any other.
#ifdef CUDA_ON_HOST_THREAD
  void release(void *token);
  void acquire(void *token);
#else
  void release(void *) {}
  void acquire(void *) {}
#endif

private:
  static void enter();
  static void finish_switch(); // first thing on the new stack

  void *stack_pointer_ = nullptr;               // while it rests
  void *mapping_ = nullptr;                     // stack with a guard page below
  std::size_t mapping_bytes_ = 0;               //
  Entry entry_ = nullptr;                       //
  const void *stack_ = nullptr;                 // lowest address and size, for AddressSanitizer
  std::size_t stack_bytes_ = 0;                 //
  [[maybe_unused]] void *fake_stack_ = nullptr; // AddressSanitizer's
  [[maybe_unused]] void *shadow_ = nullptr;     // ThreadSanitizer's
};

// For ThreadSanitizer alone: forgets who accessed this memory so far. Both ends are multiples of 8 bytes, and the same
// in each call.
#ifdef CUDA_ON_HOST_THREAD
void forget_accesses(void *begin, void *end);
#else
inline void forget_accesses(void *, void *) {}
#endif

} // namespace cuda_on_host
