// Barriers, votes and shuffles: who waits for whom, what they exchange, and what is an error.
//
// Exited threads count as they do since compute capability 7.0: barriers and warp operations wait for those that have
// not exited. Where CUDA leaves the result undefined there is an error.
#include <cstdio>
#include <cstring>

#include "state.h"

namespace cuda_on_host {
namespace {

Thread &running() {
  if (g_block.running == nullptr) throw Error("a barrier, vote or shuffle outside of a kernel");
  return *g_block.running;
}

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

void open_barrier() {
  const Operation operation = g_block.first_in_barrier->call.operation;
  uint64_t result = g_block.predicates;
  if (operation == Operation::kSyncThreadsOr) result = g_block.predicates != 0;
  if (operation == Operation::kSyncThreadsAnd) result = g_block.predicates == g_block.in_barrier;
  for (const bool acquire : {false, true})
    for (unsigned w = 0; w < kMaxWarps; w++)
      for (uint32_t lanes = g_block.warps[w].in_barrier; lanes != 0; lanes &= lanes - 1) {
        Thread &t = g_block.threads[32 * w + (unsigned)__builtin_ctz(lanes)];
        t.result = result;
        if (acquire) t.fiber->acquire(&g_block.tokens->barrier);
        else t.fiber->release(&g_block.tokens->barrier);
      }
  for (unsigned w = 0; w < kMaxWarps; w++) {
    wake(w, g_block.warps[w].in_barrier);
    g_block.warps[w].in_barrier = 0;
  }
  g_block.in_barrier = 0;
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

bool same(const Site &a, const Site &b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

// Carries out the call when all lanes that it names are there.
bool complete(unsigned w, const WarpCall &call) {
  Warp &warp = g_block.warps[w];
  Thread *const threads = &g_block.threads[32 * w];
  const uint32_t group = call.mask & warp.live;
  if ((group & ~warp.in_call) != 0) return false;
  for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1)
    if (!same(threads[__builtin_ctz(lanes)].call, call)) return false;
  exchange(threads, group);
  if (g_block.cancelled) return true;
  if (call.operation == Operation::kSyncWarp) {                          // the only one that orders memory accesses
    char *const token = &g_block.tokens->warps[w][__builtin_ctz(group)]; // its lane takes part in all that use it
    for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) threads[__builtin_ctz(lanes)].fiber->release(token);
    for (uint32_t lanes = group; lanes != 0; lanes &= lanes - 1) threads[__builtin_ctz(lanes)].fiber->acquire(token);
  }
  warp.in_call &= ~group;
  wake(w, g_block.running->warp == w ? group & ~(1u << g_block.running->lane) : group);
  return true;
}

} // namespace

void after_exit(const Thread &exited) {
  if (g_block.in_barrier != 0 && g_block.in_barrier == g_block.live) open_barrier();
  const Warp &warp = g_block.warps[exited.warp];
  for (uint32_t tried = 0, left; (left = warp.in_call & ~tried) != 0 && !g_block.cancelled;) {
    const unsigned lane = (unsigned)__builtin_ctz(left);
    tried |= 1u << lane;
    complete(exited.warp, g_block.threads[32 * exited.warp + lane].call);
  }
}

// Why no thread can go on.
std::string explain_deadlock() {
  for (unsigned w = 0; w < kMaxWarps; w++) {
    if (g_block.warps[w].in_call == 0) continue;
    const Thread &waiting = g_block.threads[32 * w + (unsigned)__builtin_ctz(g_block.warps[w].in_call)];
    for (uint32_t lanes = waiting.call.mask & g_block.warps[w].live; lanes != 0; lanes &= lanes - 1) {
      const Thread &missing = g_block.threads[32 * w + (unsigned)__builtin_ctz(lanes)];
      const bool in_call = (g_block.warps[w].in_call >> missing.lane & 1) != 0;
      if (in_call && same(missing.call, waiting.call)) continue;
      return text(waiting) + " waits in " + text(waiting.call, waiting.site) + " for lane " +
             std::to_string(missing.lane) + " of its warp, which waits in " + text(missing.call, missing.site);
    }
  }
  return "no thread can go on"; // cannot be: with all at the barrier, or exited, it would have opened
}

int barrier(Operation operation, int predicate, Site site) {
  Thread &me = running();
  me.call = {operation, 0}, me.site = site;
  if (g_block.in_barrier == 0) {
    g_block.first_in_barrier = &me;
    g_block.predicates = 0;
  } else {
    const Thread &first = *g_block.first_in_barrier;
    if (first.call.operation != operation || !same(first.site, site)) {
      fail("barrier divergence: " + text(first) + " waits in " + text(first.call, first.site) + ", " + text(me) +
           " in " + text(me.call, site));
      throw Cancelled();
    }
  }
  g_block.predicates += predicate != 0;
  g_block.warps[me.warp].in_barrier |= 1u << me.lane;
  g_block.in_barrier++;
  if (g_block.in_barrier == g_block.live) {
    open_barrier();
    Warp &warp = g_block.warps[me.warp];
    warp.runnable &= ~(1u << me.lane); // goes on at once
    if (warp.runnable == 0) g_block.runnable_warps &= ~(1u << me.warp);
  } else {
    wait();
  }
  return (int)me.result;
}

uint64_t warp_operation(const WarpCall &call, Site site) {
  Thread &me = running();
  me.call = call, me.site = site;
  const auto refuse = [&](const std::string &why) {
    fail(text(me) + ": " + text(call, site) + " " + why);
    throw Cancelled();
  };
  if ((call.mask >> me.lane & 1) == 0) refuse("leaves out its own lane " + std::to_string(me.lane));
  if (call.width < 1 || call.width > 32 || (call.width & (call.width - 1)) != 0)
    refuse("has width " + std::to_string(call.width) + ", not a power of 2 up to 32");
  g_block.warps[me.warp].in_call |= 1u << me.lane;
  if (!complete(me.warp, call)) wait();
  if (g_block.cancelled) throw Cancelled();
  return me.result;
}

} // namespace cuda_on_host
