#include "binning.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace ipsm::cpu {
namespace {

constexpr int kRadixBits = 11, kRadix = 1 << kRadixBits, kPasses = 3;

// The visible Gaussians, cut into as many runs as there are threads. Whoever distributes them writes run after run, so
// the outcome is the same for any number of runs.
struct Runs {
  int64_t count; // of runs
  size_t items;
  size_t begin(int64_t run) const { return items * static_cast<size_t>(run) / static_cast<size_t>(count); }
  size_t end(int64_t run) const { return begin(run + 1); }
};

// Turns counts[run * digits + digit] into the place where that run's first item with that digit goes. Returns the
// number of items, and calls at(digit, place) with the first place of each digit.
template <typename At> uint32_t places_of_counts(uint32_t *counts, int64_t runs, int64_t digits, const At &at) {
  uint32_t start = 0;
  for (int64_t digit = 0; digit < digits; digit++) {
    at(digit, start);
    for (int64_t run = 0; run < runs; run++) start += std::exchange(counts[run * digits + digit], start);
  }
  return start;
}

// Sorts keys and values by key, stable, least significant digit first. Positive floats order like their bits.
// Returns 0 or 1: which of the two buffers holds the result.
int radix_sort(uint32_t *const keys[2], uint32_t *const values[2], const Runs &runs, Buffer<uint32_t> &memory,
               Executor &executor) {
  uint32_t *histogram = memory.reserve(runs.count * kRadix);
  int from = 0;
  for (int pass = 0; pass < kPasses; pass++) {
    const int shift = pass * kRadixBits, to = 1 - from;
    const auto digit_of = [&](uint32_t key) { return key >> shift & (kRadix - 1); };
    executor.for_each(runs.count, [&](int64_t run) {
      uint32_t *counts = histogram + run * kRadix;
      std::memset(counts, 0, kRadix * sizeof *counts);
      for (size_t i = runs.begin(run); i < runs.end(run); i++) counts[digit_of(keys[from][i])]++;
    });
    places_of_counts(histogram, runs.count, kRadix, [](int64_t, uint32_t) {});
    executor.for_each(runs.count, [&](int64_t run) {
      uint32_t *next = histogram + run * kRadix;
      for (size_t i = runs.begin(run); i < runs.end(run); i++) {
        const uint32_t key = keys[from][i], at = next[digit_of(key)]++;
        keys[to][at] = key, values[to][at] = values[from][i];
      }
    });
    from = to;
  }
  return from;
}

} // namespace

const Pair *project_and_sort(const Kernels &kernels, const View &view, const GaussianInputs &gaussians, int64_t count,
                             int32_t *radii, const Residuals &residuals, Workspace &work, Executor &executor) {
  const int64_t chunks = chunk_count(count), tiles = tile_count(view.width, view.height);
  uint32_t *tile_counts = work.tile_count.reserve(count);
  while (work.tiles.size() < static_cast<size_t>(chunks)) work.tiles.push_back(std::make_unique<OwnedTileList>());
  // Pairs and visible Gaussians of each chunk, then of all chunks before it.
  int64_t *pairs_before = work.pairs_before.reserve(chunks + 1),
          *visible_before = work.visible_before.reserve(chunks + 1);
  const auto end_of = [&](int64_t chunk) { return (chunk + 1) * kChunk < count ? (chunk + 1) * kChunk : count; };
  std::atomic<int64_t> total{0};
  executor.for_each(chunks, [&](int64_t chunk) {
    work.tiles[chunk]->size = 0;
    if (total.load(std::memory_order_relaxed) > INT32_MAX) return; // hopeless: do not fill the memory as well
    kernels.project(view, gaussians, chunk * kChunk, end_of(chunk), residuals.splats, radii, tile_counts,
                    *work.tiles[chunk]);
    pairs_before[chunk] = static_cast<int64_t>(work.tiles[chunk]->size), visible_before[chunk] = 0;
    for (int64_t i = chunk * kChunk; i < end_of(chunk); i++) visible_before[chunk] += tile_counts[i] != 0;
    total.fetch_add(pairs_before[chunk], std::memory_order_relaxed);
  });
  if (total > INT32_MAX)
    throw std::length_error("more than 2^31 - 1 (Gaussian, tile) pairs in one image; use fewer or smaller Gaussians");
  int64_t pairs = 0, visible = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    pairs += std::exchange(pairs_before[chunk], pairs);
    visible += std::exchange(visible_before[chunk], visible);
  }

  // Slots are numbered Gaussian by Gaussian, so that a Gaussian's gradients lie side by side.
  uint32_t *keys[2] = {work.keys[0].reserve(visible), work.keys[1].reserve(visible)};
  uint32_t *order[2] = {work.order[0].reserve(visible), work.order[1].reserve(visible)};
  executor.for_each(chunks, [&](int64_t chunk) {
    int64_t slot = pairs_before[chunk], at = visible_before[chunk];
    for (int64_t i = chunk * kChunk; i < end_of(chunk); i++) {
      residuals.slot_start[i] = static_cast<int32_t>(slot);
      if (!tile_counts[i]) continue;
      slot += tile_counts[i];
      std::memcpy(&keys[0][at], &residuals.splats[i].depth, 4);
      order[0][at++] = static_cast<uint32_t>(i);
    }
  });
  residuals.slot_start[count] = static_cast<int32_t>(pairs);
  const Runs runs{visible < 4096 ? 1 : executor.threads(), static_cast<size_t>(visible)};
  const uint32_t *sorted = order[radix_sort(keys, order, runs, work.histogram, executor)];

  Pair *sorted_pairs = pairs > residuals.capacity ? work.pairs.reserve(pairs) : residuals.pairs;

  // Counting sort by tile, in depth order.
  uint32_t *histogram = work.histogram.reserve(runs.count * tiles);
  const auto tiles_of = [&](uint32_t splat) {
    const int64_t chunk = splat / kChunk;
    return work.tiles[chunk]->data + (residuals.slot_start[splat] - residuals.slot_start[chunk * kChunk]);
  };
  executor.for_each(runs.count, [&](int64_t run) {
    uint32_t *counts = histogram + run * tiles;
    std::memset(counts, 0, tiles * sizeof *counts);
    for (size_t k = runs.begin(run); k < runs.end(run); k++) {
      const uint32_t *ids = tiles_of(sorted[k]);
      for (uint32_t j = 0; j < tile_counts[sorted[k]]; j++) counts[ids[j]]++;
    }
  });
  residuals.tile_start[tiles] =
      static_cast<int32_t>(places_of_counts(histogram, runs.count, tiles, [&](int64_t tile, uint32_t start) {
        residuals.tile_start[tile] = static_cast<int32_t>(start);
      }));
  executor.for_each(runs.count, [&](int64_t run) {
    uint32_t *next = histogram + run * tiles;
    for (size_t k = runs.begin(run); k < runs.end(run); k++) {
      const uint32_t splat = sorted[k], *ids = tiles_of(splat);
      for (uint32_t j = 0; j < tile_counts[splat]; j++) {
        sorted_pairs[next[ids[j]]++] = {static_cast<int32_t>(splat),
                                        residuals.slot_start[splat] + static_cast<int32_t>(j)};
      }
    }
  });
  return sorted_pairs;
}

} // namespace ipsm::cpu
