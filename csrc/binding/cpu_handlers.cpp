// XLA FFI handlers around the CPU rasterizer: they check shapes, walk the batch and translate errors. No maths here.
#include "cpu_handlers.h"

#include "../rasterizer/cpu/rasterizer.h"
#include "rasterizer_operands.h"

namespace ipsm::binding {
namespace {

constexpr const char *kWho = "ipsm_jax rasterizer";

View view_of(const SceneOperands &scene, const std::vector<int64_t> &i, const Attributes &a) {
  View view = scene.view(i, a);
  const int32_t asked = *scene.degree.at(i);
  view.degree = asked < 0 ? 0 : (asked > 3 ? 3 : asked);
  return view;
}

// Splats travel as rows of floats and pairs as rows of integers; the backward pass never writes through these pointers.
template <typename Float, typename Int>
cpu::Residuals residuals_of(const FrameBuffers<Float, Int> &frame, const std::vector<int64_t> &i, int64_t capacity) {
  const auto writable = [&](const Batched<Int> &b) { return const_cast<int32_t *>(b.at(i)); };
  return {reinterpret_cast<Splat *>(const_cast<float *>(frame.splats.at(i))),
          writable(frame.slot_start),
          writable(frame.tile_start),
          writable(frame.tile_processed),
          reinterpret_cast<Pair *>(writable(frame.pairs)),
          capacity};
}

// Operands: SceneOperands. Results: ForwardResults.
ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t width,
                   int64_t height, int64_t footprint, int64_t pair_capacity, int64_t antialiased,
                   int64_t absolute_gradients) {
  return translate_errors(kWho, [&] {
    const ForwardCall call(args, rets, {width, height, footprint, pair_capacity, antialiased, absolute_gradients});
    const SceneOperands &scene = call.scene;
    const ForwardResults &out = call.out;
    XlaExecutor executor(pool);
    call.shape.for_each([&](const std::vector<int64_t> &i) {
      const cpu::Residuals residuals = residuals_of(out, i, pair_capacity);
      cpu::forward(view_of(scene, i, call.attributes), scene.gaussians(i), scene.count,
                   {out.color.at(i), out.depth.at(i), out.alpha.at(i), out.features.at(i)}, out.radii.at(i), residuals,
                   executor);
      *out.pair_count.at(i) = residuals.slot_start[scene.count];
    });
  });
}

// Operands: SceneOperands, BackwardOperands. Results: GradientResults.
ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t width,
                    int64_t height, int64_t footprint, int64_t pair_capacity, int64_t antialiased,
                    int64_t absolute_gradients) {
  return translate_errors(kWho, [&] {
    const BackwardCall call(args, rets, {width, height, footprint, pair_capacity, antialiased, absolute_gradients});
    const SceneOperands &scene = call.scene;
    const BackwardOperands &frame = call.frame;
    const GradientResults &out = call.out;
    XlaExecutor executor(pool);
    call.shape.for_each([&](const std::vector<int64_t> &i) {
      CameraGradient camera;
      cpu::backward(view_of(scene, i, call.attributes), scene.gaussians(i), scene.count, frame.images(i),
                    frame.d_images(i), residuals_of(frame, i, pair_capacity), out.gaussians(i), camera,
                    out.background.at(i), executor);
      float *matrix = out.camera_from_world.at(i);
      for (int r = 0; r < 3; r++) {
        for (int c = 0; c < 3; c++) matrix[4 * r + c] = static_cast<float>(camera.rotation[3 * r + c]);
        matrix[4 * r + 3] = static_cast<float>(camera.translation[r]);
        matrix[12 + r] = 0;
      }
      matrix[15] = 0;
      for (int k = 0; k < 4; k++) out.intrinsics.at(i)[k] = static_cast<float>(camera.intrinsics[k]);
    });
  });
}

} // namespace
} // namespace ipsm::binding

#define IPSM_RASTERIZE_BINDING                                                                                         \
  xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets() IPSM_RASTERIZER_ATTRIBUTES

XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_forward_cpu, ipsm::binding::forward, IPSM_RASTERIZE_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_backward_cpu, ipsm::binding::backward, IPSM_RASTERIZE_BINDING);
