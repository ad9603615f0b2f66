// The CUDA rasterizer on the CPU, for ctypes: forward and backward on arrays in host memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <vector>

#include "../../csrc/rasterizer/cuda/rasterizer.h"

namespace {

using namespace ipsm;

// Its fields have the order and types of `Options` in tests/rasterizer/emulated.py.
struct Options {
  int64_t width, height, footprint, antialiased, absolute_gradients, count, rest, channels, capacity;
  int64_t batch[cuda::kBatchAxes];
};

// Scratch memory full of odd numbers, so that reading what was never written shows.
class HostScratch : public cuda::Scratch {
public:
  ~HostScratch() {
    for (void *block : blocks_) std::free(block);
  }
  void *allocate(size_t bytes) override {
    void *block = std::malloc(bytes);
    if (!block) throw std::bad_alloc();
    std::memset(block, 0x7f, bytes);
    blocks_.push_back(block);
    return block;
  }

private:
  std::vector<void *> blocks_;
};

// Takes operands one after another: pointers, and strides in elements of the array.
class Operands {
public:
  Operands(const void *const *pointers, const int64_t *strides) : pointers_(pointers), strides_(strides) {}
  // `group` elements of the array are one T.
  template <typename T> cuda::Strided<const T> next(int64_t group = 1) {
    cuda::Strided<const T> operand = {static_cast<const T *>(*pointers_++), {}};
    for (int64_t &stride : operand.strides) stride = *strides_++ / group;
    return operand;
  }

private:
  const void *const *pointers_;
  const int64_t *strides_;
};

cuda::Call call_of(const Options &o, Operands &in) {
  cuda::Call call = {};
  call.batch.items = 1;
  for (int axis = 0; axis < cuda::kBatchAxes; axis++) {
    call.batch.sizes[axis] = static_cast<int32_t>(o.batch[axis]);
    call.batch.items *= call.batch.sizes[axis];
  }
  call.width = static_cast<int>(o.width), call.height = static_cast<int>(o.height);
  call.footprint = static_cast<Footprint>(o.footprint);
  call.antialiased = o.antialiased != 0, call.absolute_gradients = o.absolute_gradients != 0;
  call.count = static_cast<int>(o.count), call.rest = static_cast<int>(o.rest);
  call.channels = static_cast<int>(o.channels), call.capacity = o.capacity;
  call.means = in.next<float>(), call.log_scales = in.next<float>(), call.quaternions = in.next<float>();
  call.opacity_logits = in.next<float>(), call.sh_dc = in.next<float>(), call.sh_rest = in.next<float>();
  call.alive = in.next<uint8_t>(), call.offset = in.next<float>(), call.camera_from_world = in.next<float>();
  call.intrinsics = in.next<float>(), call.background = in.next<float>(), call.features = in.next<float>();
  in.next<float>(); // mean2d_absolute has no values of interest
  call.degree = in.next<int32_t>();
  return call;
}

class Results {
public:
  explicit Results(void *const *pointers) : pointers_(pointers) {}
  template <typename T> void take(T *&pointer) { pointer = static_cast<T *>(*pointers_++); }
  template <typename First, typename... More> void take(First *&first, More *&...more) { take(first), take(more...); }

private:
  void *const *pointers_;
};

// Returns 0, or 1 with what went wrong in `message`.
template <typename Work> int guarded(char *message, size_t room, const Work &work) {
  try {
    work();
    return 0;
  } catch (const std::exception &e) {
    std::snprintf(message, room, "%s", e.what());
    return 1;
  }
}

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int emulated_forward(const Options *options, const void *const *operands, const int64_t *strides,
                            void *const *results, char *message, size_t room) {
  return guarded(message, room, [&] {
    Operands in(operands, strides);
    const cuda::Call call = call_of(*options, in);
    cuda::Forward out;
    Results(results).take(out.color, out.depth, out.alpha, out.features, out.radii, out.pair_count, out.splats,
                          out.slot_start, out.tile_start, out.tile_processed, out.pairs);
    HostScratch scratch;
    cuda::forward(call, out, scratch, nullptr);
  });
}

EXPORT int emulated_backward(const Options *options, const void *const *operands, const int64_t *strides,
                             void *const *results, char *message, size_t room) {
  return guarded(message, room, [&] {
    Operands in(operands, strides);
    const cuda::Call call = call_of(*options, in);
    cuda::Backward frame = {};
    frame.color = in.next<float>(), frame.depth = in.next<float>(), frame.alpha = in.next<float>();
    frame.features = in.next<float>(), frame.splats = in.next<Splat>(kSplatFloats);
    frame.slot_start = in.next<int32_t>(), frame.tile_start = in.next<int32_t>();
    frame.tile_processed = in.next<int32_t>(), frame.pairs = in.next<Pair>(2);
    frame.d_color = in.next<float>(), frame.d_depth = in.next<float>(), frame.d_alpha = in.next<float>();
    frame.d_features = in.next<float>();
    cuda::Gradients out;
    Results(results).take(out.means, out.log_scales, out.quaternions, out.opacity_logits, out.sh_dc, out.sh_rest,
                          out.offset, out.camera_from_world, out.intrinsics, out.background, out.features,
                          out.absolute);
    HostScratch scratch;
    cuda::backward(call, frame, out, scratch, nullptr);
  });
}
