// From splats to one front-to-back list per tile: sort all Gaussians by depth, let each write its (tile, pair) entries
// in that order, sort these by tile with a stable sort.
#include "device_algorithms.h"
#include "stages.cuh"

namespace ipsm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kUnused = 0xffffffffu; // an entry of the pool that holds no pair; its low bits are ones too
constexpr int kFewTiles = 16; // what a thread writes by itself; a whole warp writes the tiles of larger splats

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Whether the pairs of item `number` do not fit, and are therefore left out.
__device__ __forceinline__ bool overflows(const Call &call, const Forward &out, int64_t number) {
  return out.pair_count[number] > call.capacity;
}

// `sums` are the tile counts summed up over the whole batch.
__global__ void slot_kernel(const Call call, const Forward out, const int64_t *sums) {
  const int64_t at = thread_number(), entries = static_cast<int64_t>(call.count) + 1;
  if (at >= call.batch.items * entries) return;
  const int64_t number = at / entries, i = at - number * entries;
  const int64_t slots = sums[number * call.count + i] - sums[number * call.count];
  const int32_t cut = slots < INT32_MAX ? static_cast<int32_t>(slots) : INT32_MAX;
  out.slot_start[at] = cut;
  if (i == call.count) out.pair_count[number] = cut;
}

// How many entries each Gaussian writes, in the order of depth.
__global__ void count_kernel(const Call call, const Forward out, const int32_t *tile_count, const uint32_t *order,
                             int32_t *entries) {
  const int64_t k = thread_number(), total = static_cast<int64_t>(call.batch.items) * call.count;
  if (k > total) return;
  int32_t count = 0;
  if (k < total) {
    const uint32_t g = order[k];
    if (!overflows(call, out, g / static_cast<uint32_t>(call.count))) count = tile_count[g];
  }
  entries[k] = count;
}

struct Emission {
  uint32_t *keys;      // number of the tile in the batch
  Pair *pairs;         //
  uint32_t first_tile; // of the item
  int tiles_x;

  __device__ void write(int64_t at, int tx, int ty, int32_t splat, int32_t slot) const {
    keys[at] = first_tile + static_cast<uint32_t>(ty * tiles_x + tx);
    pairs[at] = {splat, slot};
  }
};

// All lanes write the entries of one splat: each looks at a row of tiles, then all write row after row.
__device__ void emit_together(const Splat &p, const Coverage &c, Footprint footprint, const Emission &to, int64_t at,
                              int32_t splat, int32_t slot) {
  const int lane = threadIdx.x % kWarp, bottom = c.y1 / kTileSize;
  for (int top = c.y0 / kTileSize; top <= bottom; top += kWarp) {
    TileColumns mine = {0, -1};
    if (top + lane <= bottom) mine = tile_columns(p, c, footprint, top + lane);
    for (int row = 0; row < kWarp && top + row <= bottom; row++) {
      const int first = __shfl_sync(kAllLanes, mine.first, row), last = __shfl_sync(kAllLanes, mine.last, row);
      for (int tx = first + lane; tx <= last; tx += kWarp)
        to.write(at + (tx - first), tx, top + row, splat, slot + (tx - first));
      if (first <= last) at += last - first + 1, slot += last - first + 1;
    }
  }
}

// `start` says where the entries of the k-th nearest Gaussian begin.
__global__ void __launch_bounds__(kThreads) emit_kernel(const Call call, const Forward out, const uint32_t *order,
                                                        const int32_t *start, uint32_t *keys, Pair *pairs) {
  const int64_t k = thread_number(), total = static_cast<int64_t>(call.batch.items) * call.count;
  const int64_t at = k < total ? start[k] : 0;
  const int32_t count = k < total ? start[k + 1] - start[k] : 0;
  uint32_t g = 0;
  if (count > 0 && count <= kFewTiles) {
    g = order[k];
    const int32_t number = g / static_cast<uint32_t>(call.count), i = g - number * static_cast<uint32_t>(call.count);
    const Emission to = {keys, pairs, static_cast<uint32_t>(number) * call.tiles(), call.tiles_x()};
    const Splat splat = out.splats[g];
    int32_t slot = out.slot_start[g + number]; // one entry more an item than there are Gaussians
    int64_t next = at;
    visit_tile_rows(splat, coverage_of(splat, call.width, call.height, call.footprint), call.footprint,
                    [&](int ty, int first, int last) {
                      for (int tx = first; tx <= last; tx++) to.write(next++, tx, ty, i, slot++);
                    });
  }
  for (unsigned large = __ballot_sync(kAllLanes, count > kFewTiles); large; large &= large - 1) {
    const int lane = __ffs(large) - 1;
    const int64_t its = k - threadIdx.x % kWarp + lane; // place in the order of depth
    g = order[its];
    const int32_t number = g / static_cast<uint32_t>(call.count), i = g - number * static_cast<uint32_t>(call.count);
    const Emission to = {keys, pairs, static_cast<uint32_t>(number) * call.tiles(), call.tiles_x()};
    const Splat splat = out.splats[g];
    emit_together(splat, coverage_of(splat, call.width, call.height, call.footprint), call.footprint, to, start[its], i,
                  out.slot_start[g + number]);
  }
}

__device__ int64_t first_not_below(const uint32_t *keys, int64_t count, uint32_t wanted) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (keys[low + half] < wanted) low += half + 1, count -= half + 1;
    else count = half;
  }
  return low;
}

// `item_start` receives where each item begins among the sorted entries of the whole batch.
__global__ void tile_kernel(const Call call, const Forward out, const uint32_t *keys, int64_t *item_start) {
  const int64_t at = thread_number(), entries = static_cast<int64_t>(call.tiles()) + 1;
  if (at >= call.batch.items * entries) return;
  const int64_t number = at / entries, tile = at - number * entries;
  const uint32_t first_tile = static_cast<uint32_t>(number) * call.tiles();
  const int64_t pool = call.batch.items * call.capacity;
  const int64_t start = number ? first_not_below(keys, pool, first_tile) : 0;
  if (tile == 0) item_start[number] = start;
  out.tile_start[at] = static_cast<int32_t>(first_not_below(keys, pool, first_tile + tile) - start);
}

// The sorted lists of all items follow each other without gaps: moves them to where each item has its own.
__global__ void place_kernel(const Call call, const Forward out, const uint32_t *keys, const Pair *pairs,
                             const int64_t *item_start) {
  const int64_t at = thread_number();
  if (at >= call.batch.items * call.capacity || keys[at] == kUnused) return;
  const int64_t number = keys[at] / static_cast<uint32_t>(call.tiles());
  out.pairs[number * call.capacity + at - item_start[number]] = pairs[at];
}

int bits_for(int64_t values) {
  int bits = 1;
  while (int64_t{1} << bits < values) bits++;
  return bits;
}

} // namespace

void bin(const Call &call, const Forward &out, const Projected &projected, Scratch &scratch, cudaStream_t stream) {
  const int64_t items = call.batch.items, total = items * call.count, pool = items * call.capacity;
  const int64_t all_tiles = items * call.tiles();
  const auto run = [&](auto kernel, int64_t work, const auto &...arguments) {
    launch_blocks(kernel, blocks_for(work, kThreads), kThreads, stream, call, out, arguments...);
  };

  int64_t *sums = allocate<int64_t>(scratch, total + 1);
  exclusive_sum(projected.tile_count, sums, total + 1, scratch, stream);
  run(slot_kernel, total + items, sums);

  uint32_t *depths = allocate<uint32_t>(scratch, total), *order = allocate<uint32_t>(scratch, total);
  sort_by_key(projected.depth_bits, depths, projected.index, order, total, 32, scratch, stream);
  int32_t *entries = allocate<int32_t>(scratch, total + 1), *start = allocate<int32_t>(scratch, total + 1);
  run(count_kernel, total + 1, projected.tile_count, order, entries);
  exclusive_sum(entries, start, total + 1, scratch, stream);

  uint32_t *keys = allocate<uint32_t>(scratch, pool), *sorted_keys = allocate<uint32_t>(scratch, pool);
  Pair *pairs = allocate<Pair>(scratch, pool);
  Pair *sorted_pairs = items > 1 ? allocate<Pair>(scratch, pool) : out.pairs;
  check(cudaMemsetAsync(keys, 0xff, pool * sizeof *keys, stream), "filling the tile ids");
  run(emit_kernel, total, order, start, keys, pairs);
  // How many entries there are is known on the device only: all of the pool is sorted, what is not used goes last.
  sort_by_key(keys, sorted_keys, pairs, sorted_pairs, pool, bits_for(all_tiles + 1), scratch, stream);

  int64_t *item_start = allocate<int64_t>(scratch, items);
  run(tile_kernel, all_tiles + items, sorted_keys, item_start);
  if (items > 1) run(place_kernel, pool, sorted_keys, sorted_pairs, item_start);
}

} // namespace ipsm::cuda
