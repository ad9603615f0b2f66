// How a block of threads goes through one tile's list, front to back: each thread has a pixel, each warp 8 x 4 of them.
// Forward pass and replay share it, so that they decide alike which pair a pixel sees and where it stops.
#pragma once

#include "stages.cuh"

namespace ipsm::cuda {

constexpr float kLog2MinAlpha = -7.99435343685885793f;
constexpr int kBlockWidth = 8, kBlockHeight = 4; // pixels of a warp

// What a pass blends: `kChannels` values a Gaussian.
struct ColorAndDepth {
  static constexpr int kChannels = 4; // red, green, blue, depth
  static constexpr bool kFeatures = false;
};
struct FeatureChunk {
  static constexpr int kChannels = kChunk;
  static constexpr bool kFeatures = true;
};

// A splat in shared memory, with the exponent's factors for base 2. Its size is an odd number of 16 bytes where that
// costs little, so that lanes which read one each hit different memory banks.
template <int kChannels> struct alignas(16) StagedSplat {
  float x, y, a, s, d, log2_opacity;
  float value[kChannels];
  float padding[kChannels == kChunk ? 6 : 2];
};
static_assert(sizeof(StagedSplat<4>) == 48 && sizeof(StagedSplat<kChunk>) == 80, "an odd number of 16 bytes");

template <typename Source>
__device__ __forceinline__ StagedSplat<Source::kChannels> staged(const Splat &p, const float *features, int channels,
                                                                 int first_channel, int32_t number) {
  StagedSplat<Source::kChannels> s;
  s.x = p.x, s.y = p.y, s.s = p.s, s.log2_opacity = p.log2_opacity;
  s.a = -0.5f * kLog2e * p.a, s.d = -0.5f * kLog2e * p.d;
  if constexpr (Source::kFeatures) {
    const float *from = features + static_cast<int64_t>(number) * channels + first_channel;
#pragma unroll
    for (int c = 0; c < kChunk; c++) s.value[c] = first_channel + c < channels ? from[c] : 0.0f;
  } else {
    s.value[0] = p.color[0], s.value[1] = p.color[1], s.value[2] = p.color[2], s.value[3] = p.depth;
  }
  return s;
}

// log2 of opacity times Gaussian at an offset from the mean; `t` is the sheared horizontal offset.
template <int kChannels>
__device__ __forceinline__ float exponent_at(const StagedSplat<kChannels> &s, float dx, float dy, float &t) {
  t = dx + s.s * dy;
  return (t * s.a) * t + (s.log2_opacity + s.d * dy * dy);
}

// False when no pixel of a warp sees the splat; `left` and `top` are its first pixel. The exponent is a concave
// quadratic: its largest value over the warp's rectangle is at the mean, or on one of the two sides that face the mean.
template <int kChannels>
__device__ __forceinline__ bool may_be_seen(const StagedSplat<kChannels> &s, float left, float top) {
  constexpr float kSlack = 0.1f; // far more than rounding; the pixels are tested again
  const float x0 = left - s.x, y0 = top - s.y, x1 = x0 + (kBlockWidth - 1), y1 = y0 + (kBlockHeight - 1);
  const float dx = clampf(0, x0, x1), dy = clampf(0, y0, y1), as = s.a * s.s;
  float t;
  const float on_vertical = exponent_at(s, dx, clampf(-as * dx * fast_reciprocal(as * s.s + s.d), y0, y1), t);
  const float on_horizontal = exponent_at(s, clampf(-s.s * dy, x0, x1), dy, t);
  return !(on_vertical < kLog2MinAlpha - kSlack && on_horizontal < kLog2MinAlpha - kSlack); // also for NaN
}

// One block's tile and this thread's pixel.
struct TilePixel {
  int number, tile; // item of the batch, tile of the item
  int x, y;
  int corner_x, corner_y; // first pixel of the warp
  bool inside;            // the image

  __device__ TilePixel(const Call &call, int number, int tile) : number(number), tile(tile) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    corner_x = tile % call.tiles_x() * kTileSize + warp % 2 * kBlockWidth;
    corner_y = tile / call.tiles_x() * kTileSize + warp / 2 * kBlockHeight;
    x = corner_x + lane % kBlockWidth, y = corner_y + lane / kBlockWidth;
    inside = x < call.width && y < call.height;
  }
  __device__ int64_t offset(const Call &call) const { return static_cast<int64_t>(y) * call.width + x; }
  // Number of the pixel in its tile, row by row.
  __device__ int in_tile() const { return y % kTileSize * kTileSize + x % kTileSize; }
};

// What a walk reads.
struct TileList {
  const Splat *splats;
  const Pair *pairs; // the tile's
  int count;
  const float *features;
  int channels, first_channel;
};

// Walks through the list. Before each bucket of pairs it calls at_bucket(first pair, transmittance), with a
// transmittance of 0 where the pixel has stopped; for each pair that the pixel sees, seen(pair's number, splat,
// weight). Returns the transmittance at the end. All threads of the block take part. kStopEarly: not all buckets
// are called for when all pixels have stopped.
template <typename Source, bool kStopEarly, typename AtBucket, typename Seen>
__device__ __forceinline__ float walk(const TileList &list, const TilePixel &pixel, const AtBucket &at_bucket,
                                      const Seen &seen) {
  __shared__ StagedSplat<Source::kChannels> batch[kTilePixels];
  const int lane = threadIdx.x % kWarp;
  const float px = pixel.x, py = pixel.y, left = pixel.corner_x, top = pixel.corner_y;
  float transmittance = 1;
  bool stopped = !pixel.inside;
  for (int start = 0; start < list.count; start += kTilePixels) {
    if (__syncthreads_and(stopped) && kStopEarly) break; // also waits for the readers of the last batch
    if (start + static_cast<int>(threadIdx.x) < list.count) {
      const int32_t number = list.pairs[start + threadIdx.x].splat;
      batch[threadIdx.x] =
          staged<Source>(list.splats[number], list.features, list.channels, list.first_channel, number);
    }
    __syncthreads();
    const int end = min(list.count - start, kTilePixels);
    for (int first = 0; first < end; first += kBucket) {
      at_bucket(start + first, stopped ? 0.0f : transmittance);
      if (__all_sync(kAllLanes, stopped)) continue;
      const bool mine = first + lane < end && may_be_seen(batch[first + lane], left, top);
      for (unsigned todo = __ballot_sync(kAllLanes, mine); todo; todo &= todo - 1) {
        const int k = first + __ffs(todo) - 1;
        const StagedSplat<Source::kChannels> &s = batch[k];
        float t;
        const float exponent = exponent_at(s, px - s.x, py - s.y, t);
        if (stopped || !(exponent >= kLog2MinAlpha)) continue;
        const float weight = min_of(fast_exp2(exponent), kMaxAlpha) * transmittance;
        const float next = transmittance - weight;
        if (next < kMinTransmittance) {
          stopped = true;
        } else {
          seen(start + k, s, weight);
          transmittance = next;
        }
      }
    }
  }
  return transmittance;
}

} // namespace ipsm::cuda
