#include "binning.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace ipsm::cpu {
namespace {

constexpr int kRadixBits = 11, kRadix = 1 << kRadixBits, kPasses = 3;

// Sorts keys and values by key, stable, least significant digit first. Positive floats order like their bits.
// Returns 0 or 1: which of the two buffers holds the result.
int radix_sort(uint32_t *keys[2], uint32_t *values[2], size_t count) {
  static thread_local uint32_t histogram[kPasses][kRadix];
  std::memset(histogram, 0, sizeof histogram);
  for (size_t i = 0; i < count; i++)
    for (int pass = 0; pass < kPasses; pass++) histogram[pass][keys[0][i] >> (pass * kRadixBits) & (kRadix - 1)]++;
  int from = 0;
  for (int pass = 0; pass < kPasses; pass++) {
    uint32_t *bucket = histogram[pass];
    const int shift = pass * kRadixBits;
    if (count && bucket[keys[from][0] >> shift & (kRadix - 1)] == count) continue; // all alike in this digit
    uint32_t start = 0;
    for (int i = 0; i < kRadix; i++) start += std::exchange(bucket[i], start);
    const int to = 1 - from;
    for (size_t i = 0; i < count; i++) {
      const uint32_t key = keys[from][i], at = bucket[key >> shift & (kRadix - 1)]++;
      keys[to][at] = key, values[to][at] = values[from][i];
    }
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
  std::atomic<int64_t> total{0};
  executor.for_each(chunks, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk, end = begin + kChunk < count ? begin + kChunk : count;
    work.tiles[chunk]->size = 0;
    if (total.load(std::memory_order_relaxed) > INT32_MAX) return; // hopeless: do not fill the memory as well
    kernels.project(view, gaussians, begin, end, residuals.splats, radii, tile_counts, *work.tiles[chunk]);
    total.fetch_add(static_cast<int64_t>(work.tiles[chunk]->size), std::memory_order_relaxed);
  });
  if (total > INT32_MAX)
    throw std::length_error("more than 2^31 - 1 (Gaussian, tile) pairs in one image; use fewer or smaller Gaussians");

  // Slots are numbered Gaussian by Gaussian, so that a Gaussian's gradients lie side by side.
  uint32_t *keys[2] = {work.keys[0].reserve(count), work.keys[1].reserve(count)};
  uint32_t *order[2] = {work.order[0].reserve(count), work.order[1].reserve(count)};
  int64_t pairs = 0;
  size_t visible = 0;
  for (int64_t i = 0; i < count; i++) {
    residuals.slot_start[i] = static_cast<int32_t>(pairs);
    if (!tile_counts[i]) continue;
    pairs += tile_counts[i];
    std::memcpy(&keys[0][visible], &residuals.splats[i].depth, 4);
    order[0][visible++] = static_cast<uint32_t>(i);
  }
  residuals.slot_start[count] = static_cast<int32_t>(pairs);
  const uint32_t *sorted = order[radix_sort(keys, order, visible)];

  Pair *sorted_pairs = pairs > residuals.capacity ? work.pairs.reserve(pairs) : residuals.pairs;

  // Counting sort by tile. The depth order is cut into slices; slice after slice owns a run within each tile's list, so
  // the outcome is the same for any number of slices.
  const int64_t slices = visible < 4096 ? 1 : executor.threads();
  uint32_t *histogram = work.histogram.reserve(slices * tiles);
  const auto slice_bound = [&](int64_t slice) { return static_cast<size_t>(visible * slice / slices); };
  const auto tiles_of = [&](uint32_t splat) {
    const int64_t chunk = splat / kChunk;
    return work.tiles[chunk]->data + (residuals.slot_start[splat] - residuals.slot_start[chunk * kChunk]);
  };
  executor.for_each(slices, [&](int64_t slice) {
    uint32_t *counts = histogram + slice * tiles;
    std::memset(counts, 0, tiles * sizeof *counts);
    for (size_t k = slice_bound(slice); k < slice_bound(slice + 1); k++) {
      const uint32_t *ids = tiles_of(sorted[k]);
      for (uint32_t j = 0; j < tile_counts[sorted[k]]; j++) counts[ids[j]]++;
    }
  });
  uint32_t start = 0;
  for (int64_t tile = 0; tile < tiles; tile++) {
    residuals.tile_start[tile] = static_cast<int32_t>(start);
    for (int64_t slice = 0; slice < slices; slice++) start += std::exchange(histogram[slice * tiles + tile], start);
  }
  residuals.tile_start[tiles] = static_cast<int32_t>(start);
  executor.for_each(slices, [&](int64_t slice) {
    uint32_t *next = histogram + slice * tiles;
    for (size_t k = slice_bound(slice); k < slice_bound(slice + 1); k++) {
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
