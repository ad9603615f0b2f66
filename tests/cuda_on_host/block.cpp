// Runs grids: which thread goes on when one waits, when those that wait may go on, and what is an error.
//
// Exited threads count as they do since compute capability 7.0: barriers and warp operations wait for those that have
// not exited. Where CUDA leaves the result undefined there is an error.
#include "block.h"

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fiber.h"

uint3 threadIdx = {0, 0, 0}, blockIdx = {0, 0, 0};
dim3 blockDim, gridDim;

namespace cuda_on_host {
namespace {

constexpr unsigned kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32;
constexpr std::size_t kStackBytes = 256 * 1024; // of address space; sanitizers make frames several times as large

// ThreadSanitizer takes what one fiber does in two blocks to be in order, so that a race between the blocks would go
// unseen. Two sets of fibers take turns in a pattern without a period (the parity of the block number's set bits), so
// whatever distance the racing blocks keep, some two of them run on different fibers.
#ifdef CUDA_ON_HOST_THREAD
constexpr unsigned kCasts = 2;
#else
constexpr unsigned kCasts = 1;
#endif

struct Cancelled {}; // unwinds the threads of a block that failed

struct Thread {
  uint3 index;
  unsigned warp, lane;
  Fiber *fiber;
  WarpCall call; // what it waits for, and where
  Site site;
  uint64_t result; // of what it waited for
};

struct Warp {
  uint32_t live, runnable; // lanes that have not exited; those neither running nor waiting
  uint32_t in_call, in_barrier;
};

// Addresses that stand for synchronizations of one block: what different blocks do is never ordered.
struct Tokens {
  char barrier, warps[kMaxWarps][32];
};

std::recursive_mutex g_one_at_a_time;
uint32_t g_order = 0, g_random = 0;
std::vector<std::unique_ptr<Fiber>> g_fibers;
char g_begin, g_end; // tokens of a grid

// The block that runs.
void (*g_body)(void *);
void *g_context;
Fiber *g_host;
Thread *g_thread = nullptr; // that runs; null outside of kernels
Thread g_threads[kMaxThreads];
Warp g_warps[kMaxWarps];
uint32_t g_runnable_warps;
unsigned g_live, g_in_barrier;
Thread *g_first_in_barrier;
uint64_t g_predicates; // true ones so far
std::unique_ptr<Tokens> g_tokens;
bool g_cancelled;
std::string g_error;

std::string text(const uint3 &v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

std::string text(const Thread &t) { return "thread " + text(t.index); }

std::string text(const WarpCall &call, const Site &site) {
  static const char *const kNames[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count",
                                       "__syncwarp",    "__ballot_sync",    "__any_sync",        "__all_sync",
                                       "__shfl_sync",   "__shfl_up_sync",   "__shfl_down_sync",  "__shfl_xor_sync"};
  std::string s = kNames[(int)call.operation];
  if (call.operation >= Operation::kSyncWarp) {
    char mask[16];
    snprintf(mask, sizeof mask, "0x%08x", call.mask);
    s += std::string(" with mask ") + mask;
    if (call.bytes == 8) s += " on 8 bytes";
  }
  return s + " at " + site.file + ":" + std::to_string(site.line);
}

// Lets the threads of a warp that `lanes` names go on.
void wake(unsigned warp, uint32_t lanes) {
  g_warps[warp].runnable |= lanes;
  if (g_warps[warp].runnable != 0) g_runnable_warps |= 1u << warp;
}

// Ends the block with an error: every other thread unwinds. The first error is the one that is told.
void fail(const std::string &message) {
  if (g_error.empty()) g_error = "block " + text(blockIdx) + ": " + message;
  g_cancelled = true;
  g_in_barrier = 0;
  for (unsigned w = 0; w < kMaxWarps; w++) {
    Warp &warp = g_warps[w];
    uint32_t waiting = warp.in_call | warp.in_barrier;
    if (g_thread != nullptr && g_thread->warp == w) waiting &= ~(1u << g_thread->lane);
    warp.in_call = warp.in_barrier = 0;
    wake(w, waiting);
  }
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
  if (g_runnable_warps == 0) return nullptr;
  const bool stay = g_order == 0 && g_thread != nullptr && (g_runnable_warps >> g_thread->warp & 1) != 0;
  const unsigned w = stay ? g_thread->warp : pick(g_runnable_warps);
  const unsigned lane = pick(g_warps[w].runnable);
  g_warps[w].runnable &= ~(1u << lane);
  if (g_warps[w].runnable == 0) g_runnable_warps &= ~(1u << w);
  return &g_threads[32 * w + lane];
}

// Leaves `from` for another thread, or for run_block when none can run.
void yield(Fiber &from) {
  Thread *const next = next_thread();
  g_thread = next;
  if (next != nullptr) threadIdx = next->index;
  from.switch_to(next != nullptr ? *next->fiber : *g_host);
}

void wait(Thread &me) {
  yield(*me.fiber);
  if (g_cancelled) throw Cancelled();
}

void open_barrier() {
  const Operation operation = g_first_in_barrier->call.operation;
  uint64_t result = g_predicates;
  if (operation == Operation::kSyncThreadsOr) result = g_predicates != 0;
  if (operation == Operation::kSyncThreadsAnd) result = g_predicates == g_in_barrier;
  for (const bool acquire : {false, true})
    for (unsigned w = 0; w < kMaxWarps; w++)
      for (uint32_t lanes = g_warps[w].in_barrier; lanes != 0; lanes &= lanes - 1) {
        Thread &t = g_threads[32 * w + (unsigned)__builtin_ctz(lanes)];
        t.result = result;
        if (acquire) t.fiber->acquire(&g_tokens->barrier);
        else t.fiber->release(&g_tokens->barrier);
      }
  for (unsigned w = 0; w < kMaxWarps; w++) {
    wake(w, g_warps[w].in_barrier);
    g_warps[w].in_barrier = 0;
  }
  g_in_barrier = 0;
}

// The lane that a lane's shuffle reads, by the PTX description of shfl.sync.
unsigned shuffle_source(const Thread &t) {
  const unsigned segment = ~(unsigned)(t.call.width - 1) & 31, first = t.lane & segment, last = first | (~segment & 31);
  const unsigned argument = t.call.argument & 31;
  unsigned source;
  switch (t.call.operation) {
  case Operation::kShuffleUp:
    source = t.lane >= first + argument ? t.lane - argument : t.lane;
    break;
  case Operation::kShuffleDown:
    source = t.lane + argument <= last ? t.lane + argument : t.lane;
    break;
  case Operation::kShuffleXor:
    source = (t.lane ^ argument) <= last ? t.lane ^ argument : t.lane;
    break;
  default:
    source = first | (argument & ~segment);
    break;
  }
  return source;
}

// Gives each of `group` its result.
void exchange(Thread *threads, uint32_t group) {
  uint32_t votes = 0;
  for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) {
    const unsigned lane = (unsigned)__builtin_ctz(lanes);
    if (threads[lane].call.value != 0) votes |= 1u << lane;
  }
  for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) {
    Thread &t = threads[__builtin_ctz(lanes)];
    switch (t.call.operation) {
    case Operation::kSyncWarp:
      break;
    case Operation::kBallot:
      t.result = votes;
      break;
    case Operation::kAny:
      t.result = votes != 0;
      break;
    case Operation::kAll:
      t.result = votes == group;
      break;
    default: {
      const unsigned source = shuffle_source(t);
      if ((group >> source & 1) == 0)
        return fail(text(t) + " reads lane " + std::to_string(source) + ", which does not take part, in " +
                    text(t.call, t.site));
      t.result = threads[source].call.value;
    }
    }
  }
}

bool same(const WarpCall &a, const WarpCall &b) {
  return a.operation == b.operation && a.mask == b.mask && a.bytes == b.bytes;
}

// Carries out the call when all lanes that it names are there.
bool complete(unsigned w, const WarpCall &call) {
  Warp &warp = g_warps[w];
  Thread *const threads = &g_threads[32 * w];
  const uint32_t group = call.mask & warp.live;
  if ((group & ~warp.in_call) != 0) return false;
  for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1)
    if (!same(threads[__builtin_ctz(lanes)].call, call)) return false;
  exchange(threads, group);
  if (g_cancelled) return true;
  if (call.operation == Operation::kSyncWarp) {                    // the only one that orders memory accesses
    char *const token = &g_tokens->warps[w][__builtin_ctz(group)]; // its lane takes part in all that use it
    for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) threads[__builtin_ctz(lanes)].fiber->release(token);
    for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) threads[__builtin_ctz(lanes)].fiber->acquire(token);
  }
  warp.in_call &= ~group;
  wake(w, g_thread->warp == w ? group & ~(1u << g_thread->lane) : group);
  return true;
}

// What an exit makes possible for those that waited for this thread.
void exit_thread(Thread &me) {
  Warp &warp = g_warps[me.warp];
  warp.live &= ~(1u << me.lane);
  g_live--;
  if (g_cancelled) return;
  if (g_in_barrier != 0 && g_in_barrier == g_live) open_barrier();
  for (uint32_t tried = 0, left; (left = warp.in_call & ~tried) != 0 && !g_cancelled;) {
    const unsigned lane = (unsigned)__builtin_ctz(left);
    tried |= 1u << lane;
    complete(me.warp, g_threads[32 * me.warp + lane].call);
  }
}

// A fiber's life: one CUDA thread after the other.
void live(Fiber &self) {
  for (;;) {
    Thread &me = *g_thread;
    if (!g_cancelled) {
      self.acquire(&g_begin);
      try {
        g_body(g_context);
      } catch (const Cancelled &) {
      } catch (const std::exception &e) {
        fail(text(me) + " threw an exception: " + e.what());
      } catch (...) {
        fail(text(me) + " threw an exception");
      }
      self.release(&g_end);
    }
    exit_thread(me);
    yield(self);
  }
}

// Why no thread can go on.
std::string explain_deadlock() {
  for (unsigned w = 0; w < kMaxWarps; w++) {
    if (g_warps[w].in_call == 0) continue;
    const Thread &waiting = g_threads[32 * w + (unsigned)__builtin_ctz(g_warps[w].in_call)];
    for (uint32_t lanes = waiting.call.mask & g_warps[w].live; lanes != 0; lanes &= lanes - 1) {
      const Thread &missing = g_threads[32 * w + (unsigned)__builtin_ctz(lanes)];
      const bool in_call = (g_warps[w].in_call >> missing.lane & 1) != 0;
      if (in_call && same(missing.call, waiting.call)) continue;
      return text(waiting) + " waits in " + text(waiting.call, waiting.site) + " for lane " +
             std::to_string(missing.lane) + " of its warp, which waits in " + text(missing.call, missing.site);
    }
  }
  return "deadlock"; // unreachable: without a warp operation the barrier would be complete
}

void run_block(unsigned threads, unsigned cast) {
  g_tokens = std::make_unique<Tokens>();
  g_live = threads, g_in_barrier = 0, g_runnable_warps = 0;
  for (unsigned w = 0; w < kMaxWarps; w++) {
    const unsigned lanes = threads > 32 * w ? threads - 32 * w : 0;
    const uint32_t all = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    g_warps[w] = {all, 0, 0, 0};
    wake(w, all);
  }
  for (unsigned t = 0; t < threads; t++) {
    const uint3 index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    g_threads[t] = {index, t / 32, t % 32, g_fibers[kCasts * t + cast].get(), {Operation::kSyncThreads, 0}, {"", 0}, 0};
  }
  Fiber host;
  g_host = &host;
  while (g_live != 0) {
    yield(host);
    if (g_live != 0) fail(explain_deadlock());
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

void set_order(uint32_t seed) { g_order = seed; }

void run_grid(dim3 grid, dim3 block, void (*body)(void *), void *context) {
  std::lock_guard<std::recursive_mutex> lock(g_one_at_a_time);
  if (g_thread != nullptr) throw Error("a kernel launches a kernel");
  check(grid, block);
  const unsigned threads = block.x * block.y * block.z;
  while (g_fibers.size() < kCasts * threads) g_fibers.push_back(std::make_unique<Fiber>(kStackBytes, live));
  gridDim = grid, blockDim = block;
  g_body = body, g_context = context;
  g_cancelled = false, g_error.clear();
  g_random = g_order;
  Fiber host;
  host.release(&g_begin);
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && !g_cancelled; i++) {
    const uint64_t b = g_order % 2 == 0 ? i : blocks - 1 - i; // half of the orders go backwards
    blockIdx = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
    run_block(threads, (unsigned)__builtin_popcountll(b) % kCasts);
  }
  host.acquire(&g_end);
  if (g_cancelled) throw Error(g_error);
}

int barrier(Operation operation, int predicate, Site site) {
  Thread &me = *g_thread;
  me.call = {operation, 0}, me.site = site;
  if (g_in_barrier == 0) {
    g_first_in_barrier = &me;
    g_predicates = 0;
  } else {
    const Thread &first = *g_first_in_barrier;
    if (first.call.operation != operation || first.site.line != site.line || strcmp(first.site.file, site.file) != 0) {
      fail("barrier divergence: " + text(first) + " waits in " + text(first.call, first.site) + ", " + text(me) +
           " in " + text(me.call, site));
      throw Cancelled();
    }
  }
  g_predicates += predicate != 0;
  g_warps[me.warp].in_barrier |= 1u << me.lane;
  g_in_barrier++;
  if (g_in_barrier == g_live) {
    open_barrier();
    Warp &warp = g_warps[me.warp];
    warp.runnable &= ~(1u << me.lane); // goes on at once
    if (warp.runnable == 0) g_runnable_warps &= ~(1u << me.warp);
  } else {
    wait(me);
  }
  return (int)me.result;
}

uint64_t warp_operation(const WarpCall &call, Site site) {
  Thread &me = *g_thread;
  me.call = call, me.site = site;
  const auto refuse = [&](const std::string &why) {
    fail(text(me) + ": " + text(call, site) + " " + why);
    throw Cancelled();
  };
  if ((call.mask >> me.lane & 1) == 0) refuse("leaves out its own lane " + std::to_string(me.lane));
  if (call.width < 1 || call.width > 32 || (call.width & (call.width - 1)) != 0)
    refuse("has width " + std::to_string(call.width) + ", not a power of 2 up to 32");
  g_warps[me.warp].in_call |= 1u << me.lane;
  if (!complete(me.warp, call)) wait(me);
  if (g_cancelled) throw Cancelled();
  return me.result;
}

} // namespace cuda_on_host
