// First part of the backward pass: one block a tile blends once more and notes, for each pixel and each bucket of
// pairs, the transmittance and the "remaining" with which the pixel enters the bucket. With them, buckets can be worked
// on independently. Remaining is what is still to come from behind, dotted with the gradient.
#include "pixel_gradient.cuh"

namespace ipsm::cuda {
namespace {

// The background's gradient from this tile: the sum of (1 - alpha) dL/dcolor.
__device__ void sum_background(const ItemImages &images, bool inside, int64_t at, double *out) {
  __shared__ float partial[kTilePixels / kWarp][3];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int c = 0; c < 3; c++) {
    const float sum = warp_sum(inside ? (1 - images.alpha[at]) * images.d_color[3 * at + c] : 0.0f);
    if (lane == 0) partial[warp][c] = sum;
  }
  __syncthreads();
  if (threadIdx.x > 3) return;
  double sum = 0;
  if (threadIdx.x < 3)
    for (int w = 0; w < kTilePixels / kWarp; w++) sum += static_cast<double>(partial[w][threadIdx.x]);
  out[threadIdx.x] = sum;
}

// kTotal: the passes over features are no passes of their own, this one counts them in.
template <typename Source, bool kTotal>
__global__ void __launch_bounds__(kTilePixels, kTotal ? 3 : kBlocksHeld)
    replay_kernel(const Call call, const Backward in, const BackwardScratch work, int first_channel) {
  constexpr int kChannels = Source::kChannels;
  const int tiles = call.tiles(), number = blockIdx.x / tiles, tile = blockIdx.x - number * tiles;
  const Item item = call.batch.locate(number);
  const TilePixel pixel(call, number, tile);
  const int64_t at = pixel.offset(call);
  const ItemImages images(call, in, item);
  const int32_t start = in.tile_start.at(item)[tile];
  const int processed = fits(call, in, item) ? in.tile_processed.at(item)[tile] : 0;

  if constexpr (!Source::kFeatures) {
    sum_background(images, pixel.inside, at, work.background + 4 * static_cast<int64_t>(blockIdx.x));
    constexpr int kPairs = kBucket * kGroup;
    int32_t *group_tile = work.group_tile + number * work.groups + start / kPairs + tile;
    for (int group = threadIdx.x; group < (processed + kPairs - 1) / kPairs; group += kTilePixels)
      group_tile[group] = tile;
  }

  const PixelGradient<Source> g =
      pixel.inside ? pixel_gradient<Source>(call, images, first_channel, at) : no_gradient<Source>();
  const float *d_features = images.d_features + at * call.channels;
  float remaining = 0;
  if (pixel.inside) {
    if constexpr (Source::kFeatures) {
#pragma unroll
      for (int c = 0; c < kChunk; c++)
        if (first_channel + c < call.channels)
          remaining += images.features[at * call.channels + first_channel + c] * g.channel[c];
    } else {
      // color holds the background once in full and minus alpha times: only the part that alpha scales is "remaining"
      for (int c = 0; c < 3; c++) remaining += (images.color[3 * at + c] - images.background[c]) * g.channel[c];
      remaining += images.depth[at] * g.channel[3] + images.alpha[at] * images.d_alpha[at];
      if (kTotal) remaining += feature_product(images.features + at * call.channels, d_features, call.channels);
    }
  }
  const TileList list = {
      in.splats.at(item), in.pairs.at(item) + start, processed, call.features.at(item), call.channels, first_channel};
  float2 *states = work.states + (number * work.buckets + start / kBucket + tile) * kTilePixels + threadIdx.x;
  walk<Source, false>(
      list, pixel,
      [&](int first, float transmittance) {
        states[static_cast<int64_t>(first / kBucket) * kTilePixels] = make_float2(transmittance, remaining);
      },
      [&](int k, const StagedSplat<kChannels> &s, float weight) {
        float each = contribution(g, s.value);
        if (kTotal)
          each += feature_product(list.features + static_cast<int64_t>(list.pairs[k].splat) * call.channels, d_features,
                                  call.channels);
        remaining -= weight * each;
      });
}

} // namespace

void replay(const Call &call, const Backward &in, const BackwardScratch &work, int first_channel, cudaStream_t stream) {
  const int64_t blocks = static_cast<int64_t>(call.batch.items) * call.tiles();
  const bool total = call.absolute_gradients && call.channels > 0;
  const auto run = [&](auto kernel) {
    launch_blocks(kernel, blocks, kTilePixels, stream, call, in, work, first_channel);
  };
  if (first_channel >= 0) run(replay_kernel<FeatureChunk, false>);
  else if (total) run(replay_kernel<ColorAndDepth, true>);
  else run(replay_kernel<ColorAndDepth, false>);
}

} // namespace ipsm::cuda
