// Runs grids: block after block, and in a block one thread until it waits, then another.
#include "block.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "state.h"

uint3 threadIdx = {0, 0, 0}, blockIdx = {0, 0, 0};
dim3 blockDim, gridDim;

extern "C" uint64_t cuda_on_host_shared_begin[], cuda_on_host_shared_end[]; // of shared_memory.ld

namespace cuda_on_host {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024; // address space: only what is touched becomes memory

// ThreadSanitizer takes what one fiber does in two blocks to be in order, so that a race between the blocks would go
// unseen. Two sets of fibers take turns in a pattern without a period (the parity of the block number's set bits), so
// whatever distance the racing blocks keep, some two of them run on different fibers.
#ifdef CUDA_ON_HOST_THREAD
constexpr unsigned kCasts = 2;
#else
constexpr unsigned kCasts = 1;
#endif

std::atomic_flag g_busy = ATOMIC_FLAG_INIT;
uint32_t g_order = 0, g_random = 0;
std::vector<std::unique_ptr<Fiber>> g_fibers;

// The grid that runs.
void (*g_body)(void *);
void *g_context;
Fiber *g_host;
std::string g_error;
char *g_begin, *g_end; // tokens that order it with what the host does before and after

std::string text(const uint3 &v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

uint32_t random_number() {
  g_random ^= g_random << 13, g_random ^= g_random >> 17, g_random ^= g_random << 5;
  return g_random;
}

// A set bit: the first one, or any.
unsigned pick(uint32_t bits) {
  if (g_order == 0) return (unsigned)__builtin_ctz(bits);
  const unsigned turn = random_number() % 32;
  const uint32_t turned = turn == 0 ? bits : bits >> turn | bits << (32 - turn);
  return ((unsigned)__builtin_ctz(turned) + turn) % 32;
}

// Takes the next thread to run; null when none can. In ascending order a warp goes on until all of it waits.
Thread *next_thread() {
  if (g_block.runnable_warps == 0) return nullptr;
  const bool stay =
      g_order == 0 && g_block.running != nullptr && (g_block.runnable_warps >> g_block.running->warp & 1) != 0;
  const unsigned w = stay ? g_block.running->warp : pick(g_block.runnable_warps);
  const unsigned lane = pick(g_block.warps[w].runnable);
  g_block.warps[w].runnable &= ~(1u << lane);
  if (g_block.warps[w].runnable == 0) g_block.runnable_warps &= ~(1u << w);
  return &g_block.threads[32 * w + lane];
}

// Leaves `from` for another thread, or for run_block when none can run.
void yield(Fiber &from) {
  Thread *const next = next_thread();
  g_block.running = next;
  if (next != nullptr) threadIdx = next->index;
  from.switch_to(next != nullptr ? *next->fiber : *g_host);
}

void exit_thread(const Thread &me) {
  g_block.warps[me.warp].live &= ~(1u << me.lane);
  g_block.live--;
  if (!g_block.cancelled) after_exit(me);
}

// A fiber's life: one CUDA thread after the other.
void live(Fiber &self) {
  for (;;) {
    Thread &me = *g_block.running;
    if (!g_block.cancelled) {
      self.acquire(g_begin);
      try {
        g_body(g_context);
      } catch (const Cancelled &) {
      } catch (const std::exception &e) {
        fail(text(me) + " threw an exception: " + e.what());
      } catch (...) {
        fail(text(me) + " threw an exception");
      }
      self.release(g_end);
    }
    exit_thread(me);
    yield(self);
  }
}

// Shared memory begins as NaN and -1. ThreadSanitizer must not take it for that of the block before.
void renew_shared_memory() {
  // Volatile, or it would become a call of memset, which AddressSanitizer does not let write between variables.
  for (volatile uint64_t *word = cuda_on_host_shared_begin; word != cuda_on_host_shared_end; word++) *word = ~0ull;
  forget_accesses(cuda_on_host_shared_begin, cuda_on_host_shared_end);
}

void run_block(unsigned threads, unsigned cast) {
  g_block.tokens = std::make_unique<Tokens>();
  renew_shared_memory();
  g_block.live = threads, g_block.in_barrier = 0, g_block.runnable_warps = 0;
  for (unsigned w = 0; w < kMaxWarps; w++) {
    const unsigned lanes = threads > 32 * w ? threads - 32 * w : 0;
    const uint32_t all = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    g_block.warps[w] = {all, 0, 0, 0};
    wake(w, all);
  }
  for (unsigned t = 0; t < threads; t++) {
    const uint3 index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    g_block.threads[t] = {index, t / 32, t % 32, g_fibers[kCasts * t + cast].get(), {}, {}, 0};
  }
  while (g_block.live != 0) {
    yield(*g_host);
    if (g_block.live != 0) fail(explain_deadlock());
  }
}

void check(const dim3 &grid, const dim3 &block) {
  const auto size = [](const dim3 &d) { return text(uint3{d.x, d.y, d.z}); };
  const uint64_t threads = (uint64_t)block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.x > 1024 || block.y > 1024 || block.z > 64)
    throw Error("a block of " + size(block) + " threads: a block has 1 to 1024 threads, at most (1024,1024,64)");
  if ((uint64_t)grid.x * grid.y * grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw Error("a grid of " + size(grid) + " blocks: a grid has at least 1 block, at most (2147483647,65535,65535)");
}

} // namespace

Block g_block;

std::string text(const Thread &thread) { return "thread " + text(thread.index); }

void wake(unsigned warp, uint32_t lanes) {
  g_block.warps[warp].runnable |= lanes;
  if (g_block.warps[warp].runnable != 0) g_block.runnable_warps |= 1u << warp;
}

void wait() {
  yield(*g_block.running->fiber);
  if (g_block.cancelled) throw Cancelled();
}

// Everything that waits unwinds, and nothing else begins. The first error is the one that is told.
void fail(const std::string &message) {
  if (g_error.empty()) g_error = "block " + text(blockIdx) + ": " + message;
  g_block.cancelled = true;
  g_block.in_barrier = 0;
  for (unsigned w = 0; w < kMaxWarps; w++) {
    Warp &warp = g_block.warps[w];
    uint32_t waiting = warp.in_call | warp.in_barrier;
    if (g_block.running != nullptr && g_block.running->warp == w) waiting &= ~(1u << g_block.running->lane);
    warp.in_call = warp.in_barrier = 0;
    wake(w, waiting);
  }
}

void cuda_on_host_set_order(uint32_t seed) { g_order = seed; }

void run_grid(dim3 grid, dim3 block, void (*body)(void *), void *context) {
  check(grid, block);
  if (g_busy.test_and_set()) throw Error("a kernel is launched while one runs: by a kernel, or by two threads at once");
  struct Leave {
    ~Leave() { g_busy.clear(); }
  } leave;
  const unsigned threads = block.x * block.y * block.z;
  while (g_fibers.size() < kCasts * threads) g_fibers.push_back(std::make_unique<Fiber>(kStackBytes, live));
  gridDim = grid, blockDim = block;
  g_body = body, g_context = context;
  g_block.cancelled = false, g_error.clear();
  g_random = g_order;
  Fiber host;
  char begin, end;
  g_host = &host, g_begin = &begin, g_end = &end;
  host.release(g_begin);
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && !g_block.cancelled; i++) {
    const uint64_t b = g_order % 2 == 0 ? i : blocks - 1 - i; // half of the orders go backwards
    blockIdx = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
    run_block(threads, (unsigned)__builtin_popcountll(b) % kCasts);
  }
  host.acquire(g_end);
  if (g_block.cancelled) throw Error(g_error);
}

} // namespace cuda_on_host
