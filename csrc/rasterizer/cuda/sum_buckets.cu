// Second part of the backward pass: a warp takes a bucket of 32 pairs of one tile, a lane each, and the tile's pixels
// stream through the lanes, front to back. So each lane ends with the sums over all pixels of its own pair's gradient,
// in registers and in a fixed order: no atomics, no reductions.
#include "pixel_gradient.cuh"

namespace ipsm::cuda {
namespace {

// A pixel on its way through the lanes. Stopped ones have a transmittance of 0.
struct Traveler {
  float transmittance, remaining;
  int pixel; // row by row in the tile

  __device__ void step() {
    transmittance = __shfl_up_sync(kAllLanes, transmittance, 1);
    remaining = __shfl_up_sync(kAllLanes, remaining, 1);
    pixel = __shfl_up_sync(kAllLanes, pixel, 1);
  }
};

// The pixels that enter a bucket: those that have not stopped, one after another.
struct Queue {
  float2 state[kTilePixels];
  uint8_t pixel[kTilePixels];

  // Fills it from the replay's states; returns how many there are. All lanes of a warp take part.
  __device__ int fill(const float2 *states) {
    const int lane = threadIdx.x % kWarp;
    int count = 0;
    for (int block = 0; block < kTilePixels / kWarp; block++) {
      const float2 found = states[block * kWarp + lane];
      const unsigned going = __ballot_sync(kAllLanes, found.x > 0);
      if (found.x > 0) {
        const int to = count + __popc(going & ((1u << lane) - 1));
        const int x = block % 2 * kBlockWidth + lane % kBlockWidth, y = block / 2 * kBlockHeight + lane / kBlockWidth;
        state[to] = found, pixel[to] = static_cast<uint8_t>(y * kTileSize + x);
      }
      count += __popc(going);
    }
    __syncwarp();
    return count;
  }
};

// Sums over the pixels, for one pair; see PairGradient.
template <int kChannels> struct PairSums {
  float h, ht, htt, hy, hty, hyy;
  float channel[kChannels];
  float abs_x, abs_y;
  bool any;
};

// kAbsolute: absolute gradients too; with them, a pass over features leaves h to the first pass.
template <typename Source, bool kAbsolute>
__global__ void __launch_bounds__(kGroup *kWarp, kAbsolute ? 3 : 4)
    bucket_kernel(const Call call, const Backward in, const BackwardScratch work, int first_channel) {
  constexpr int kChannels = Source::kChannels, kQuads = kChannels / 4;
  constexpr bool kGeometry = !(Source::kFeatures && kAbsolute);
  __shared__ float4 gradient[kQuads][kTilePixels]; // by pixel, row by row
  __shared__ float alpha_gradient[Source::kFeatures ? 1 : kTilePixels];
  __shared__ Queue queues[kGroup];

  const int tile = work.group_tile[blockIdx.x];
  if (tile < 0) return;
  const int64_t number = blockIdx.x / work.groups, group_in_item = blockIdx.x - number * work.groups;
  const Item item = call.batch.locate(static_cast<int32_t>(number));
  const ItemImages images(call, in, item);
  const int32_t start = in.tile_start.at(item)[tile];
  const int processed = in.tile_processed.at(item)[tile];
  const int corner_x = tile % call.tiles_x() * kTileSize, corner_y = tile / call.tiles_x() * kTileSize;
  static_assert(kGroup * kWarp == kTilePixels, "each thread fetches one pixel");
  {
    const int x = corner_x + threadIdx.x % kTileSize, y = corner_y + threadIdx.x / kTileSize;
    const bool inside = x < call.width && y < call.height;
    const PixelGradient<Source> g =
        inside ? pixel_gradient<Source>(call, images, first_channel, static_cast<int64_t>(y) * call.width + x)
               : no_gradient<Source>();
#pragma unroll
    for (int q = 0; q < kQuads; q++)
      gradient[q][threadIdx.x] =
          make_float4(g.channel[4 * q], g.channel[4 * q + 1], g.channel[4 * q + 2], g.channel[4 * q + 3]);
    if (!Source::kFeatures) alpha_gradient[threadIdx.x] = g.alpha;
  }
  __syncthreads();

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int group = static_cast<int>(group_in_item - (start / (kBucket * kGroup) + tile));
  const int bucket = group * kGroup + warp, first = bucket * kBucket;
  if (first >= processed) return;
  Queue &queue = queues[warp];
  const int pixels = queue.fill(work.states + (number * work.buckets + start / kBucket + tile + bucket) * kTilePixels);

  const int lanes = min(processed - first, kBucket);
  const bool in_use = lane < lanes;
  const Pair pair = in.pairs.at(item)[start + first + (in_use ? lane : 0)];
  const Splat splat = in.splats.at(item)[pair.splat];
  const float *features = call.features.at(item);
  const StagedSplat<kChannels> s = staged<Source>(splat, features, call.channels, first_channel, pair.splat);
  // the features' sums are only wanted where the first pass found something too
  const int64_t slot = number * call.capacity + pair.slot;
  const bool wanted = in_use && (!Source::kFeatures || work.written[slot]);

  PairSums<kChannels> sum = {};
  Traveler traveler = {};
  for (int step = 0; step < pixels + lanes - 1; step++) {
    traveler.step();
    if (lane == 0) {
      traveler.transmittance = 0;
      if (step < pixels) traveler = {queue.state[step].x, queue.state[step].y, queue.pixel[step]};
    }
    if (!wanted || !(traveler.transmittance > 0)) continue;
    const int x = traveler.pixel % kTileSize, y = traveler.pixel / kTileSize;
    const float dx = static_cast<float>(corner_x + x) - s.x, dy = static_cast<float>(corner_y + y) - s.y;
    float t;
    const float exponent = exponent_at(s, dx, dy, t);
    if (!(exponent >= kLog2MinAlpha)) continue;
    const float raw = fast_exp2(exponent), alpha = min_of(raw, kMaxAlpha);
    const float weight = alpha * traveler.transmittance, next = traveler.transmittance - weight;
    if (next < kMinTransmittance) {
      traveler.transmittance = 0;
      continue;
    }
    PixelGradient<Source> g;
#pragma unroll
    for (int q = 0; q < kQuads; q++) {
      const float4 four = gradient[q][traveler.pixel];
      g.channel[4 * q] = four.x, g.channel[4 * q + 1] = four.y;
      g.channel[4 * q + 2] = four.z, g.channel[4 * q + 3] = four.w;
    }
    g.alpha = Source::kFeatures ? 0.0f : alpha_gradient[traveler.pixel];
#pragma unroll
    for (int c = 0; c < kChannels; c++) sum.channel[c] += weight * g.channel[c];
    sum.any = true;
    if constexpr (kGeometry) {
      float each = contribution(g, s.value);
      if (kAbsolute && call.channels > 0) {
        const int64_t at = static_cast<int64_t>(corner_y + y) * call.width + corner_x + x;
        each += feature_product(features + static_cast<int64_t>(pair.splat) * call.channels,
                                images.d_features + at * call.channels, call.channels);
      }
      traveler.remaining -= weight * each;
      const float d_alpha = traveler.transmittance * each - traveler.remaining * fast_reciprocal(1 - alpha);
      const float h = raw * d_alpha, ht = h * t, hy = h * dy; // the gradient passes through the clamp at 0.99
      sum.h += h, sum.ht += ht, sum.htt += ht * t;
      sum.hy += hy, sum.hty += ht * dy, sum.hyy += hy * dy;
      if (kAbsolute) {
        sum.abs_x += __builtin_fabsf(ht * splat.a);
        sum.abs_y += __builtin_fabsf(ht * (splat.a * splat.s) + hy * splat.d);
      }
    }
    traveler.transmittance = next;
  }

  if (!(wanted && (sum.any || Source::kFeatures))) return;
  float *out = work.sums + slot * work.stride;
  if constexpr (Source::kFeatures) {
    if (kGeometry) {
      out[kH] += sum.h, out[kHt] += sum.ht, out[kHtt] += sum.htt;
      out[kHy] += sum.hy, out[kHty] += sum.hty, out[kHyy] += sum.hyy;
    }
#pragma unroll
    for (int q = 0; q < kQuads; q++)
      reinterpret_cast<float4 *>(out + kPairGradientSize + first_channel)[q] =
          make_float4(sum.channel[4 * q], sum.channel[4 * q + 1], sum.channel[4 * q + 2], sum.channel[4 * q + 3]);
  } else {
    static_assert(kHyy == 5 && kRed == 6 && kDepth == 9 && kAbsY == 11, "the order of PairGradient");
    float4 *to = reinterpret_cast<float4 *>(out);
    to[0] = make_float4(sum.h, sum.ht, sum.htt, sum.hy);
    to[1] = make_float4(sum.hty, sum.hyy, sum.channel[0], sum.channel[1]);
    to[2] = make_float4(sum.channel[2], sum.channel[3], sum.abs_x, sum.abs_y);
    work.written[slot] = 1;
  }
}

} // namespace

void sum_buckets(const Call &call, const Backward &in, const BackwardScratch &work, int first_channel,
                 cudaStream_t stream) {
  const int64_t blocks = static_cast<int64_t>(call.batch.items) * work.groups;
  const auto run = [&](auto kernel) {
    launch_blocks(kernel, blocks, kGroup * kWarp, stream, call, in, work, first_channel);
  };
  if (first_channel < 0) {
    if (call.absolute_gradients) run(bucket_kernel<ColorAndDepth, true>);
    else run(bucket_kernel<ColorAndDepth, false>);
  } else {
    if (call.absolute_gradients) run(bucket_kernel<FeatureChunk, true>);
    else run(bucket_kernel<FeatureChunk, false>);
  }
}

} // namespace ipsm::cuda
