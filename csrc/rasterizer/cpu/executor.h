// How the rasterizer asks for threads: whoever calls it (XLA, a test) brings an Executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <thread>

namespace ipsm::cpu {

class Executor {
public:
  virtual ~Executor() = default;
  virtual int threads() const = 0; // including the caller
  // Starts `task` on another thread, some time; the caller of for_each never waits for tasks that have not begun.
  virtual void spawn(std::function<void()> task) = 0;

  // Calls work(0) ... work(count - 1), in any order, on several threads; returns when all have been done. The calling
  // thread takes part, so this ends even when no other thread is ever free. An exception of `work` is thrown again
  // here, after all the rest is done.
  template <typename Work> void for_each(int64_t count, const Work &work) {
    if (threads() <= 1 || count <= 1) {
      for (int64_t i = 0; i < count; i++) work(i);
      return;
    }
    struct Shared {
      std::atomic<int64_t> next{0}, done{0};
      std::atomic<bool> failed{false};
      std::exception_ptr error;
      const Work *work;
      int64_t count;
      // A thread that comes late finds next >= count and leaves without touching `work`, which may be gone by then.
      void run() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
          try {
            (*work)(i);
          } catch (...) {
            if (!failed.exchange(true)) error = std::current_exception();
          }
          done.fetch_add(1, std::memory_order_release);
        }
      }
    };
    auto shared = std::make_shared<Shared>();
    shared->work = &work, shared->count = count;
    const int64_t helpers = count - 1 < threads() - 1 ? count - 1 : threads() - 1;
    try {
      for (int64_t i = 0; i < helpers; i++) spawn([shared] { shared->run(); });
    } catch (
        ...) { // no memory for another task: those that have started must not outlive this call, so go on with them
    }
    shared->run();
    // What is left is what other threads are in the middle of: at most one piece each.
    for (int spin = 0; shared->done.load(std::memory_order_acquire) < count; spin++)
      if (spin > 1000) std::this_thread::yield();
    if (shared->error) std::rethrow_exception(shared->error);
  }
};

} // namespace ipsm::cpu
