// What the images' gradients say about one pixel, for the two kernels of the backward pass that blend once more.
#pragma once

#include "walk.cuh"

namespace ipsm::cuda {

// Pointers of one item of the batch.
struct ItemImages {
  const float *color, *depth, *alpha, *features, *d_color, *d_depth, *d_alpha, *d_features, *background;

  __device__ ItemImages(const Call &call, const Backward &in, const Item &item)
      : color(in.color.at(item)), depth(in.depth.at(item)), alpha(in.alpha.at(item)), features(in.features.at(item)),
        d_color(in.d_color.at(item)), d_depth(in.d_depth.at(item)), d_alpha(in.d_alpha.at(item)),
        d_features(in.d_features.at(item)), background(call.background.at(item)) {}
};

// Whether the lists of one item hold its pairs.
__device__ __forceinline__ bool fits(const Call &call, const Backward &in, const Item &item) {
  return in.slot_start.at(item)[call.count] <= call.capacity;
}

// Gradients of what a pass blends, at one pixel: of its channels, and of alpha. The background's share is in the
// latter, because every bit of alpha takes away background.
template <typename Source> struct PixelGradient {
  float channel[Source::kChannels];
  float alpha;
};

template <typename Source>
__device__ __forceinline__ PixelGradient<Source> pixel_gradient(const Call &call, const ItemImages &images,
                                                                int first_channel, int64_t at) {
  PixelGradient<Source> g;
  if constexpr (Source::kFeatures) {
#pragma unroll
    for (int c = 0; c < kChunk; c++)
      g.channel[c] =
          first_channel + c < call.channels ? images.d_features[at * call.channels + first_channel + c] : 0.0f;
    g.alpha = 0;
  } else {
    g.alpha = images.d_alpha[at];
    for (int c = 0; c < 3; c++) {
      g.channel[c] = images.d_color[3 * at + c];
      g.alpha -= images.background[c] * g.channel[c];
    }
    g.channel[3] = images.d_depth[at];
  }
  return g;
}

// The same for no pixel.
template <typename Source> __device__ __forceinline__ PixelGradient<Source> no_gradient() {
  PixelGradient<Source> g;
#pragma unroll
  for (int c = 0; c < Source::kChannels; c++) g.channel[c] = 0;
  g.alpha = 0;
  return g;
}

// Features of one Gaussian times the feature image's gradient at one pixel, over all channels. Slow: absolute gradients
// alone need it, because they are not a sum over passes.
__device__ __forceinline__ float feature_product(const float *feature, const float *gradient, int channels) {
  float sum = 0;
  for (int c = 0; c < channels; c++) sum += feature[c] * gradient[c];
  return sum;
}

// How much the loss changes when this Gaussian's weight in the pixel grows.
template <typename Source, typename Values>
__device__ __forceinline__ float contribution(const PixelGradient<Source> &g, const Values &value) {
  float sum = g.alpha;
#pragma unroll
  for (int c = 0; c < Source::kChannels; c++) sum += g.channel[c] * value[c];
  return sum;
}

} // namespace ipsm::cuda
