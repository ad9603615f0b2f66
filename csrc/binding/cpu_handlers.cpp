// XLA FFI handlers around the CPU rasterizer: they check shapes, walk the batch and translate errors. No maths here.
#include "cpu_handlers.h"

#include "../rasterizer/cpu/rasterizer.h"
#include "operands.h"

namespace ipsm::binding {
namespace {

struct Attributes {
  int width, height;
  Footprint footprint;
  int64_t pair_capacity;
};

// What both handlers take first: the scene and the camera.
struct SceneOperands {
  int64_t count; // Gaussians
  int64_t rest;  // harmonics beyond the constant one
  Batched<const float> means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest;
  Batched<const bool> alive;
  Batched<const float> offset, camera_from_world, intrinsics, background;
  Batched<const int32_t> degree;

  explicit SceneOperands(Operands &in) : count(in.size_of(0, 2)), rest(in.size_of(5, 2)) {
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
    degree = in.next<ffi::S32>("sh_degree", {});
  }

  cpu::View view(const std::vector<int64_t> &i, const Attributes &a) const {
    const int32_t asked = *degree.at(i);
    return {camera_from_world.at(i),
            intrinsics.at(i),
            background.at(i),
            a.width,
            a.height,
            asked < 0 ? 0 : (asked > 3 ? 3 : asked),
            a.footprint};
  }
  cpu::GaussianInputs gaussians(const std::vector<int64_t> &i) const {
    static_assert(sizeof(bool) == 1, "XLA's PRED is one byte");
    return {means.at(i),
            log_scales.at(i),
            quaternions.at(i),
            opacity_logits.at(i),
            sh_dc.at(i),
            sh_rest.at(i),
            reinterpret_cast<const uint8_t *>(alive.at(i)),
            offset.at(i),
            static_cast<int>(rest)};
  }
};

// Splats travel as rows of floats and pairs as rows of integers; the backward pass never writes through these pointers.
template <typename From> Splat *as_splats(From *data) { return reinterpret_cast<Splat *>(const_cast<float *>(data)); }
template <typename From> Pair *as_pairs(From *data) { return reinterpret_cast<Pair *>(const_cast<int32_t *>(data)); }

ffi::Error checked(const Attributes &a, const std::function<void()> &work) {
  return translate_errors("ipsm_jax rasterizer", [&] {
    if (a.width <= 0 || a.height <= 0 || a.width > 1 << 20 || a.height > 1 << 20)
      throw std::invalid_argument("image size " + std::to_string(a.width) + " x " + std::to_string(a.height) +
                                  " is not between 1 and 2^20");
    if (a.footprint != Footprint::kExact && a.footprint != Footprint::kThreeSigma)
      throw std::invalid_argument("unknown footprint " + std::to_string(static_cast<int64_t>(a.footprint)));
    work();
  });
}

// Operands: the scene. Results: color (H, W, 3), depth (H, W), alpha (H, W), radii (N,), then the residuals: splats (N,
// 16), slot_start (N + 1,), tile_start (tiles + 1,), tile_processed (tiles,), pairs (capacity, 2).
ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t width,
                   int64_t height, int64_t footprint, int64_t pair_capacity) {
  const Attributes a{static_cast<int>(width), static_cast<int>(height), static_cast<Footprint>(footprint),
                     pair_capacity};
  return checked(a, [&] {
    BatchShape shape;
    Operands in(args, shape);
    const SceneOperands scene(in);
    const int64_t n = scene.count, tiles = cpu::tile_count(a.width, a.height);
    Results out(rets, shape);
    const auto color = out.next<ffi::F32>("color", {height, width, 3});
    const auto depth = out.next<ffi::F32>("depth", {height, width});
    const auto alpha = out.next<ffi::F32>("alpha", {height, width});
    const auto radii = out.next<ffi::S32>("radii", {n});
    const auto splats = out.next<ffi::F32>("splats", {n, kSplatFloats});
    const auto slot_start = out.next<ffi::S32>("slot_start", {n + 1});
    const auto tile_start = out.next<ffi::S32>("tile_start", {tiles + 1});
    const auto tile_processed = out.next<ffi::S32>("tile_processed", {tiles});
    const auto pairs = out.next<ffi::S32>("pairs", {pair_capacity, 2});
    XlaExecutor executor(pool);
    shape.for_each([&](const std::vector<int64_t> &i) {
      cpu::forward(scene.view(i, a), scene.gaussians(i), n, {color.at(i), depth.at(i), alpha.at(i)}, radii.at(i),
                   {as_splats(splats.at(i)), slot_start.at(i), tile_start.at(i), tile_processed.at(i),
                    as_pairs(pairs.at(i)), pair_capacity},
                   executor);
    });
  });
}

// Operands: the scene, the forward pass's results except radii, and the gradients of color, depth and alpha.
// Results: gradients of means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest, mean2d_offset,
// camera_from_world, intrinsics and background.
ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t width,
                    int64_t height, int64_t footprint, int64_t pair_capacity) {
  const Attributes a{static_cast<int>(width), static_cast<int>(height), static_cast<Footprint>(footprint),
                     pair_capacity};
  return checked(a, [&] {
    BatchShape shape;
    Operands in(args, shape);
    const SceneOperands scene(in);
    const int64_t n = scene.count, tiles = cpu::tile_count(a.width, a.height);
    const auto color = in.next<ffi::F32>("color", {height, width, 3});
    const auto depth = in.next<ffi::F32>("depth", {height, width});
    const auto alpha = in.next<ffi::F32>("alpha", {height, width});
    const auto splats = in.next<ffi::F32>("splats", {n, kSplatFloats});
    const auto slot_start = in.next<ffi::S32>("slot_start", {n + 1});
    const auto tile_start = in.next<ffi::S32>("tile_start", {tiles + 1});
    const auto tile_processed = in.next<ffi::S32>("tile_processed", {tiles});
    const auto pairs = in.next<ffi::S32>("pairs", {pair_capacity, 2});
    const auto d_color = in.next<ffi::F32>("d_color", {height, width, 3});
    const auto d_depth = in.next<ffi::F32>("d_depth", {height, width});
    const auto d_alpha = in.next<ffi::F32>("d_alpha", {height, width});
    Results out(rets, shape);
    const auto d_means = out.next<ffi::F32>("d_means", {n, 3});
    const auto d_log_scales = out.next<ffi::F32>("d_log_scales", {n, 3});
    const auto d_quaternions = out.next<ffi::F32>("d_quaternions", {n, 4});
    const auto d_opacity_logits = out.next<ffi::F32>("d_opacity_logits", {n});
    const auto d_sh_dc = out.next<ffi::F32>("d_sh_dc", {n, 3});
    const auto d_sh_rest = out.next<ffi::F32>("d_sh_rest", {n, scene.rest, 3});
    const auto d_offset = out.next<ffi::F32>("d_mean2d_offset", {n, 2});
    const auto d_camera = out.next<ffi::F32>("d_camera_from_world", {4, 4});
    const auto d_intrinsics = out.next<ffi::F32>("d_intrinsics", {4});
    const auto d_background = out.next<ffi::F32>("d_background", {3});
    XlaExecutor executor(pool);
    shape.for_each([&](const std::vector<int64_t> &i) {
      const auto writable = [&](const Batched<const int32_t> &b) { return const_cast<int32_t *>(b.at(i)); };
      CameraGradient camera;
      cpu::backward(scene.view(i, a), scene.gaussians(i), n, {color.at(i), depth.at(i), alpha.at(i)},
                    {d_color.at(i), d_depth.at(i), d_alpha.at(i)},
                    {as_splats(splats.at(i)), writable(slot_start), writable(tile_start), writable(tile_processed),
                     as_pairs(pairs.at(i)), pair_capacity},
                    {d_means.at(i), d_log_scales.at(i), d_quaternions.at(i), d_opacity_logits.at(i), d_sh_dc.at(i),
                     d_sh_rest.at(i), d_offset.at(i)},
                    camera, d_background.at(i), executor);
      float *matrix = d_camera.at(i);
      for (int r = 0; r < 3; r++) {
        for (int c = 0; c < 3; c++) matrix[4 * r + c] = static_cast<float>(camera.rotation[3 * r + c]);
        matrix[4 * r + 3] = static_cast<float>(camera.translation[r]);
        matrix[12 + r] = 0;
      }
      matrix[15] = 0;
      for (int k = 0; k < 4; k++) d_intrinsics.at(i)[k] = static_cast<float>(camera.intrinsics[k]);
    });
  });
}

} // namespace
} // namespace ipsm::binding

#define IPSM_RASTERIZE_BINDING                                                                                         \
  xla::ffi::Ffi::Bind()                                                                                                \
      .Ctx<xla::ffi::ThreadPool>()                                                                                     \
      .RemainingArgs()                                                                                                 \
      .RemainingRets()                                                                                                 \
      .Attr<int64_t>("width")                                                                                          \
      .Attr<int64_t>("height")                                                                                         \
      .Attr<int64_t>("footprint")                                                                                      \
      .Attr<int64_t>("pair_capacity")

XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_forward_cpu, ipsm::binding::forward, IPSM_RASTERIZE_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_backward_cpu, ipsm::binding::backward, IPSM_RASTERIZE_BINDING);
