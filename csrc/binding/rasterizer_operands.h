// The rasterizer's operands and results as XLA hands them over, the same for every back end: names, order, shapes.
#pragma once

#include "../rasterizer/types.h"
#include "operands.h"

namespace ipsm::binding {

struct Attributes {
  int64_t width, height, footprint, pair_capacity, antialiased, absolute_gradients;

  int64_t tiles() const { return ((width + kTileSize - 1) / kTileSize) * ((height + kTileSize - 1) / kTileSize); }
  // Itself. Throws std::invalid_argument.
  const Attributes &checked() const {
    if (width <= 0 || height <= 0 || width > 1 << 20 || height > 1 << 20)
      throw std::invalid_argument("image size " + std::to_string(width) + " x " + std::to_string(height) +
                                  " is not between 1 and 2^20");
    if (footprint != static_cast<int64_t>(Footprint::kExact) &&
        footprint != static_cast<int64_t>(Footprint::kThreeSigma))
      throw std::invalid_argument("unknown footprint " + std::to_string(footprint));
    if (pair_capacity < 0) throw std::invalid_argument("negative pair_capacity " + std::to_string(pair_capacity));
    return *this;
  }
};

#define IPSM_RASTERIZER_ATTRIBUTES                                                                                     \
  .Attr<int64_t>("width")                                                                                              \
      .Attr<int64_t>("height")                                                                                         \
      .Attr<int64_t>("footprint")                                                                                      \
      .Attr<int64_t>("pair_capacity")                                                                                  \
      .Attr<int64_t>("antialiased")                                                                                    \
      .Attr<int64_t>("absolute_gradients")

// What both directions take first: the Gaussians, the camera, the settings that may be traced.
struct SceneOperands {
  int64_t count;    // N Gaussians
  int64_t rest;     // K harmonics beyond the constant one
  int64_t channels; // C
  Batched<const float> means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest;
  Batched<const bool> alive;
  Batched<const float> offset, camera_from_world, intrinsics, background, features;
  Batched<const int32_t> degree;

  explicit SceneOperands(Operands &in)
      : count(in.size_of("means", 0, 2)), rest(in.size_of("sh_rest", 5, 2)), channels(in.size_of("features", 11, 1)) {
    means = in.next<ffi::F32>("means", {count, 3});
    log_scales = in.next<ffi::F32>("log_scales", {count, 3});
    quaternions = in.next<ffi::F32>("quaternions", {count, 4});
    opacity_logits = in.next<ffi::F32>("opacity_logits", {count});
    sh_dc = in.next<ffi::F32>("sh_dc", {count, 3});
    sh_rest = in.next<ffi::F32>("sh_rest", {count, rest, 3});
    alive = in.next<ffi::PRED>("alive", {count});
    offset = in.next<ffi::F32>("mean2d_offset", {count, 2});
    camera_from_world = in.next<ffi::F32>("camera_from_world", {4, 4});
    intrinsics = in.next<ffi::F32>("intrinsics", {4});
    background = in.next<ffi::F32>("background", {3});
    features = in.next<ffi::F32>("features", {count, channels});
    in.next<ffi::F32>("mean2d_absolute", {count, 2}); // only its gradient is of interest
    degree = in.next<ffi::S32>("sh_degree", {});
  }

  // Pointers of one item of the batch. The degree is left out: it lies in `degree`, maybe in another memory.
  View view(const std::vector<int64_t> &i, const Attributes &a) const {
    return {camera_from_world.at(i),
            intrinsics.at(i),
            background.at(i),
            static_cast<int>(a.width),
            static_cast<int>(a.height),
            0,
            static_cast<Footprint>(a.footprint),
            a.antialiased != 0,
            a.absolute_gradients != 0,
            static_cast<int>(channels)};
  }
  GaussianInputs gaussians(const std::vector<int64_t> &i) const {
    static_assert(sizeof(bool) == 1, "XLA's PRED is one byte");
    return {means.at(i),
            log_scales.at(i),
            quaternions.at(i),
            opacity_logits.at(i),
            sh_dc.at(i),
            sh_rest.at(i),
            reinterpret_cast<const uint8_t *>(alive.at(i)),
            offset.at(i),
            features.at(i),
            static_cast<int>(rest)};
  }
};

// Images, and the lists that the forward pass leaves for the backward pass. `Frame` is Operands or Results, `T` their
// element types with or without const.
template <typename Float, typename Int> struct FrameBuffers {
  Batched<Float> color, depth, alpha, features; // (H, W, 3), (H, W), (H, W), (H, W, C)
  Batched<Float> splats;                        // (N, 16), see Splat
  Batched<Int> slot_start;                      // (N + 1,)
  Batched<Int> tile_start;                      // (tiles + 1,)
  Batched<Int> tile_processed;                  // (tiles,)
  Batched<Int> pairs;                           // (capacity, 2), see Pair

  template <typename Frame> void take_images(Frame &frame, const Attributes &a, int64_t channels, const char *prefix) {
    const auto name = [&](const char *what) { return std::string(prefix) + what; };
    color = frame.template next<ffi::F32>(name("color").c_str(), {a.height, a.width, 3});
    depth = frame.template next<ffi::F32>(name("depth").c_str(), {a.height, a.width});
    alpha = frame.template next<ffi::F32>(name("alpha").c_str(), {a.height, a.width});
    features = frame.template next<ffi::F32>(name("feature image").c_str(), {a.height, a.width, channels});
  }
  template <typename Frame> void take_lists(Frame &frame, const Attributes &a, int64_t count) {
    splats = frame.template next<ffi::F32>("splats", {count, kSplatFloats});
    slot_start = frame.template next<ffi::S32>("slot_start", {count + 1});
    tile_start = frame.template next<ffi::S32>("tile_start", {a.tiles() + 1});
    tile_processed = frame.template next<ffi::S32>("tile_processed", {a.tiles()});
    pairs = frame.template next<ffi::S32>("pairs", {a.pair_capacity, 2});
  }
};

// Results of the forward pass.
struct ForwardResults : FrameBuffers<float, int32_t> {
  Batched<int32_t> radii;      // (N,)
  Batched<int32_t> pair_count; // ()

  ForwardResults(Results &out, const Attributes &a, const SceneOperands &scene) {
    take_images(out, a, scene.channels, "");
    radii = out.next<ffi::S32>("radii", {scene.count});
    pair_count = out.next<ffi::S32>("pair_count", {});
    take_lists(out, a, scene.count);
  }
};

// What the backward pass takes after the scene: the forward pass's results but for radii and pair_count, and the
// gradients of the images.
struct BackwardOperands : FrameBuffers<const float, const int32_t> {
  FrameBuffers<const float, const int32_t> gradients; // images only

  BackwardOperands(Operands &in, const Attributes &a, const SceneOperands &scene) {
    take_images(in, a, scene.channels, "");
    take_lists(in, a, scene.count);
    gradients.take_images(in, a, scene.channels, "gradient of ");
  }
  ConstImages images(const std::vector<int64_t> &i) const {
    return {color.at(i), depth.at(i), alpha.at(i), features.at(i)};
  }
  ConstImages d_images(const std::vector<int64_t> &i) const {
    const auto &g = gradients;
    return {g.color.at(i), g.depth.at(i), g.alpha.at(i), g.features.at(i)};
  }
};

// Results of the backward pass: the gradients of all operands of type float, in their order.
struct GradientResults {
  Batched<float> means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest, offset, camera_from_world, intrinsics,
      background, features, absolute;

  GradientResults(Results &out, const SceneOperands &scene) {
    const int64_t n = scene.count;
    means = out.next<ffi::F32>("d_means", {n, 3});
    log_scales = out.next<ffi::F32>("d_log_scales", {n, 3});
    quaternions = out.next<ffi::F32>("d_quaternions", {n, 4});
    opacity_logits = out.next<ffi::F32>("d_opacity_logits", {n});
    sh_dc = out.next<ffi::F32>("d_sh_dc", {n, 3});
    sh_rest = out.next<ffi::F32>("d_sh_rest", {n, scene.rest, 3});
    offset = out.next<ffi::F32>("d_mean2d_offset", {n, 2});
    camera_from_world = out.next<ffi::F32>("d_camera_from_world", {4, 4});
    intrinsics = out.next<ffi::F32>("d_intrinsics", {4});
    background = out.next<ffi::F32>("d_background", {3});
    features = out.next<ffi::F32>("d_features", {n, scene.channels});
    absolute = out.next<ffi::F32>("d_mean2d_absolute", {n, 2});
  }
  GaussianGradients gaussians(const std::vector<int64_t> &i) const {
    return {means.at(i),   log_scales.at(i), quaternions.at(i), opacity_logits.at(i), sh_dc.at(i),
            sh_rest.at(i), offset.at(i),     features.at(i),    absolute.at(i)};
  }
};

// A whole call of either direction: attributes, operands and results, checked, none missing and none left over.
struct ForwardCall {
  Attributes attributes;
  BatchShape shape;
  Operands in;
  SceneOperands scene;
  Results rest;
  ForwardResults out;

  ForwardCall(ffi::RemainingArgs args, ffi::RemainingRets rets, const Attributes &a)
      : attributes(a.checked()), in(args, shape), scene(in), rest(rets, shape), out(rest, a, scene) {
    in.finish();
    rest.finish();
  }
};

struct BackwardCall {
  Attributes attributes;
  BatchShape shape;
  Operands in;
  SceneOperands scene;
  BackwardOperands frame;
  Results rest;
  GradientResults out;

  BackwardCall(ffi::RemainingArgs args, ffi::RemainingRets rets, const Attributes &a)
      : attributes(a.checked()), in(args, shape), scene(in), frame(in, a, scene), rest(rets, shape), out(rest, scene) {
    in.finish();
    rest.finish();
  }
};

} // namespace ipsm::binding
