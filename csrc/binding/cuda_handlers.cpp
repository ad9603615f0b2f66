// XLA FFI handlers around the CUDA rasterizer: they check shapes, hand over pointers and translate errors. A batch is
// one call. No maths here, and no kernels: any C++ compiler will do.
#include "cuda_handlers.h"

#include "../rasterizer/cuda/rasterizer.h"
#include "rasterizer_operands.h"

namespace ipsm::binding {
namespace {

constexpr const char *kWho = "ipsm_jax rasterizer (CUDA)";

// XLA's own memory, as much as a call needs; it sees to the order of uses on the stream. A call that allocates while it
// runs cannot be recorded in a CUDA graph, so XLA launches it by itself.
class XlaScratch : public cuda::Scratch {
public:
  explicit XlaScratch(ffi::ScratchAllocator &allocator) : allocator_(allocator) {}
  void *allocate(size_t bytes) override {
    constexpr size_t kAlignment = 16; // of float4
    const std::optional<void *> memory = allocator_.Allocate(bytes, kAlignment);
    if (!memory) throw std::bad_alloc();
    return *memory;
  }

private:
  ffi::ScratchAllocator &allocator_;
};

// Axes are counted from the last. `group` elements of the operand are one T.
template <typename T, typename Element>
cuda::Strided<const T> strided(const Batched<Element> &operand, int64_t group = 1) {
  cuda::Strided<const T> result = {reinterpret_cast<const T *>(operand.data), {}};
  const size_t missing = cuda::kBatchAxes - operand.strides.size();
  for (size_t axis = 0; axis < operand.strides.size(); axis++)
    result.strides[missing + axis] = operand.strides[axis] / group;
  return result;
}

cuda::Batch batch_of(const BatchShape &shape) {
  const std::vector<int64_t> &sizes = shape.sizes();
  if (sizes.size() > cuda::kBatchAxes)
    throw std::invalid_argument(std::to_string(sizes.size()) + " nested vmaps, at most " +
                                std::to_string(cuda::kBatchAxes) + " are possible; reshape to fewer batch axes");
  cuda::Batch batch = {1, {1, 1, 1, 1}};
  int64_t items = 1;
  for (size_t axis = 0; axis < sizes.size(); axis++) {
    items *= sizes[axis];
    if (items > INT32_MAX) throw std::invalid_argument("a batch of more than 2^31 - 1 images");
    batch.sizes[cuda::kBatchAxes - sizes.size() + axis] = static_cast<int32_t>(sizes[axis]);
  }
  batch.items = static_cast<int32_t>(items);
  return batch;
}

cuda::Call call_of(const SceneOperands &scene, const Attributes &a, const BatchShape &shape) {
  for (const int64_t size : {scene.count, scene.rest, scene.channels})
    if (size > INT32_MAX)
      throw std::invalid_argument("an axis of " + std::to_string(size) + " does not fit in 32 bits");
  static_assert(sizeof(bool) == 1, "XLA's PRED is one byte");
  cuda::Call call = {};
  call.batch = batch_of(shape);
  call.width = static_cast<int>(a.width), call.height = static_cast<int>(a.height);
  call.footprint = static_cast<Footprint>(a.footprint);
  call.antialiased = a.antialiased != 0, call.absolute_gradients = a.absolute_gradients != 0;
  call.count = static_cast<int>(scene.count), call.rest = static_cast<int>(scene.rest);
  call.channels = static_cast<int>(scene.channels), call.capacity = a.pair_capacity;
  call.means = strided<float>(scene.means), call.log_scales = strided<float>(scene.log_scales);
  call.quaternions = strided<float>(scene.quaternions), call.opacity_logits = strided<float>(scene.opacity_logits);
  call.sh_dc = strided<float>(scene.sh_dc), call.sh_rest = strided<float>(scene.sh_rest);
  call.alive = strided<uint8_t>(scene.alive), call.offset = strided<float>(scene.offset);
  call.camera_from_world = strided<float>(scene.camera_from_world);
  call.intrinsics = strided<float>(scene.intrinsics), call.background = strided<float>(scene.background);
  call.features = strided<float>(scene.features), call.degree = strided<int32_t>(scene.degree);
  return call;
}

// Operands: SceneOperands. Results: ForwardResults.
ffi::Error forward(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::RemainingArgs args,
                   ffi::RemainingRets rets, int64_t width, int64_t height, int64_t footprint, int64_t pair_capacity,
                   int64_t antialiased, int64_t absolute_gradients) {
  return translate_errors(kWho, [&] {
    const ForwardCall call(args, rets, {width, height, footprint, pair_capacity, antialiased, absolute_gradients});
    const ForwardResults &out = call.out;
    XlaScratch scratch(allocator);
    cuda::forward(call_of(call.scene, call.attributes, call.shape),
                  {out.color.data, out.depth.data, out.alpha.data, out.features.data, out.radii.data,
                   out.pair_count.data, reinterpret_cast<Splat *>(out.splats.data), out.slot_start.data,
                   out.tile_start.data, out.tile_processed.data, reinterpret_cast<Pair *>(out.pairs.data)},
                  scratch, stream);
  });
}

// Operands: SceneOperands, BackwardOperands. Results: GradientResults.
ffi::Error backward(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::RemainingArgs args,
                    ffi::RemainingRets rets, int64_t width, int64_t height, int64_t footprint, int64_t pair_capacity,
                    int64_t antialiased, int64_t absolute_gradients) {
  return translate_errors(kWho, [&] {
    const BackwardCall call(args, rets, {width, height, footprint, pair_capacity, antialiased, absolute_gradients});
    const BackwardOperands &frame = call.frame;
    const GradientResults &out = call.out;
    const auto &g = frame.gradients;
    XlaScratch scratch(allocator);
    cuda::backward(call_of(call.scene, call.attributes, call.shape),
                   {strided<float>(frame.color), strided<float>(frame.depth), strided<float>(frame.alpha),
                    strided<float>(frame.features), strided<Splat>(frame.splats, kSplatFloats),
                    strided<int32_t>(frame.slot_start), strided<int32_t>(frame.tile_start),
                    strided<int32_t>(frame.tile_processed), strided<Pair>(frame.pairs, 2), strided<float>(g.color),
                    strided<float>(g.depth), strided<float>(g.alpha), strided<float>(g.features)},
                   {out.means.data, out.log_scales.data, out.quaternions.data, out.opacity_logits.data, out.sh_dc.data,
                    out.sh_rest.data, out.offset.data, out.camera_from_world.data, out.intrinsics.data,
                    out.background.data, out.features.data, out.absolute.data},
                   scratch, stream);
  });
}

} // namespace
} // namespace ipsm::binding

#define IPSM_RASTERIZE_BINDING                                                                                         \
  xla::ffi::Ffi::Bind()                                                                                                \
      .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()                                                                   \
      .Ctx<xla::ffi::ScratchAllocator>()                                                                               \
      .RemainingArgs()                                                                                                 \
      .RemainingRets() IPSM_RASTERIZER_ATTRIBUTES

XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_forward_cuda, ipsm::binding::forward, IPSM_RASTERIZE_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_rasterize_backward_cuda, ipsm::binding::backward, IPSM_RASTERIZE_BINDING);
