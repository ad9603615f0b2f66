// Blends the sorted splats into the images: one block a tile, first colors, depth and alpha, then the features in
// chunks of channels.
#include "walk.cuh"

namespace ipsm::cuda {
namespace {

// Largest value of a block's threads; `shared` is one integer.
__device__ int block_max(int value, int *shared) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = max(value, __shfl_xor_sync(kAllLanes, value, distance));
  if (threadIdx.x == 0) *shared = 0;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) atomicMax(shared, value);
  __syncthreads();
  return *shared;
}

template <typename Source>
__global__ void __launch_bounds__(kTilePixels) blend_kernel(const Call call, const Forward out, int first_channel) {
  constexpr int kChannels = Source::kChannels;
  const int tiles = call.tiles(), number = blockIdx.x / tiles, tile = blockIdx.x - number * tiles;
  const Item item = call.batch.locate(number);
  const TilePixel pixel(call, number, tile);
  const bool fits = out.pair_count[number] <= call.capacity;
  const int64_t at = static_cast<int64_t>(number) * call.width * call.height + pixel.offset(call);
  const int32_t *tile_start = out.tile_start + static_cast<int64_t>(number) * (tiles + 1) + tile;
  const int count = Source::kFeatures ? out.tile_processed[blockIdx.x] : tile_start[1] - tile_start[0];
  const TileList list = {out.splats + static_cast<int64_t>(number) * call.count,
                         out.pairs + number * call.capacity + tile_start[0],
                         count,
                         call.features.at(item),
                         call.channels,
                         first_channel};
  float sum[kChannels] = {};
  int processed = 0;
  float transmittance = walk<Source, true>(
      list, pixel, [](int, float) {},
      [&](int k, const StagedSplat<kChannels> &s, float weight) {
#pragma unroll
        for (int c = 0; c < kChannels; c++) sum[c] += weight * s.value[c];
        processed = k + 1;
      });
  if (!fits) { // nothing was drawn; say so in every pixel
    transmittance = not_a_number();
    for (int c = 0; c < kChannels; c++) sum[c] = not_a_number();
  }
  if constexpr (Source::kFeatures) {
    if (!pixel.inside) return;
#pragma unroll
    for (int c = 0; c < kChunk; c++)
      if (first_channel + c < call.channels) out.features[at * call.channels + first_channel + c] = sum[c];
  } else {
    __shared__ int last;
    processed = block_max(processed, &last);
    if (threadIdx.x == 0) out.tile_processed[blockIdx.x] = processed;
    if (!pixel.inside) return;
    const float *background = call.background.at(item);
    for (int c = 0; c < 3; c++) out.color[3 * at + c] = sum[c] + transmittance * background[c];
    out.depth[at] = sum[3], out.alpha[at] = 1 - transmittance;
  }
}

} // namespace

void blend(const Call &call, const Forward &out, cudaStream_t stream) {
  const int64_t blocks = static_cast<int64_t>(call.batch.items) * call.tiles();
  launch_blocks(blend_kernel<ColorAndDepth>, blocks, kTilePixels, stream, call, out, 0);
  for (int first = 0; first < call.channels; first += kChunk)
    launch_blocks(blend_kernel<FeatureChunk>, blocks, kTilePixels, stream, call, out, first);
}

} // namespace ipsm::cuda
