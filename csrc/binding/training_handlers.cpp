// XLA FFI handlers around the loss and the optimizer.
#include <algorithm>
#include <cstring>

#include "../training/adam.h"
#include "../training/photometric.h"
#include "cpu_handlers.h"
#include "operands.h"

namespace ipsm::binding {
namespace {

using training::AdamField;

// Operands: image (H, W, C); of V views image, l1_image, mean, variance (V, H, W, C); view (), clamped to 0 ... V - 1
// like XLA's own indices; ssim_weight (). Results: terms (3,), the means of |image - l1_image|, SSIM and
// (image - target)^2; gradient of the loss (H, W, C).
ffi::Error photometric(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return translate_errors("ipsm_jax photometric loss", [&] {
    BatchShape shape;
    Operands in(args, shape);
    const int64_t h = in.size_of("image", 0, 3), w = in.size_of("image", 0, 2), c = in.size_of("image", 0, 1);
    const int64_t views = in.size_of("target image", 1, 4);
    if (h == 0 || w == 0 || c == 0 || views == 0) throw std::invalid_argument("there is no pixel to compare");
    const auto image = in.next<ffi::F32>("image", {h, w, c});
    const auto target = in.next<ffi::F32>("target image", {views, h, w, c});
    const auto l1_target = in.next<ffi::F32>("target l1_image", {views, h, w, c});
    const auto mean = in.next<ffi::F32>("target mean", {views, h, w, c});
    const auto variance = in.next<ffi::F32>("target variance", {views, h, w, c});
    const auto view = in.next<ffi::S32>("view", {});
    const auto ssim_weight = in.next<ffi::F32>("ssim_weight", {});
    in.finish();
    Results out(rets, shape);
    const auto terms = out.next<ffi::F32>("terms", {3});
    const auto gradient = out.next<ffi::F32>("gradient", {h, w, c});
    out.finish();
    XlaExecutor executor(pool);
    shape.for_each([&](const std::vector<int64_t> &i) {
      const int64_t start = std::min<int64_t>(std::max(*view.at(i), 0), views - 1) * h * w * c;
      const auto means =
          training::photometric({image.at(i), target.at(i) + start, l1_target.at(i) + start, mean.at(i) + start,
                                 variance.at(i) + start, h, w, c, *ssim_weight.at(i)},
                                gradient.at(i), executor);
      float *term = terms.at(i);
      term[0] = static_cast<float>(means.l1);
      term[1] = static_cast<float>(means.ssim);
      term[2] = static_cast<float>(means.squared);
    });
  });
}

// Of a field: its numbers per slot, and where those of the first batch item begin.
template <typename T> struct Field {
  T *data;
  int64_t width;
};

// `buffer` as a field of (batch ..., N) slots, whatever axes come after these.
template <typename Buffer> auto field_of(const char *name, Buffer &buffer, Dimensions slots) {
  const auto dims = buffer.dimensions();
  bool fits = dims.size() >= slots.size();
  int64_t width = 1;
  for (size_t axis = 0; fits && axis < dims.size(); axis++)
    if (axis < slots.size()) fits = dims[axis] == slots[axis];
    else width *= dims[axis];
  if (!fits)
    throw std::invalid_argument(std::string(name) + " has shape " + to_string(dims) + ", want one that starts with " +
                                to_string(slots));
  return Field<std::remove_pointer_t<decltype(buffer.typed_data())>>{buffer.typed_data(), width};
}

// Operands: alive (N,); steps (F,), of each field the learning rate / (1 - beta1^t); correction (), 1 - beta2^t; then
// the F fields (N, ...): values, first moments, second moments, gradients. Results: values, first and second moments
// after the step, which share their buffers with the operands. Every shape has all batch axes in front.
//
// The fields keep their own shapes: a reshape before or after would be one more use of a buffer that is to be changed
// in place, and XLA then copies it.
ffi::Error adam(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double beta1, double beta2,
                double epsilon) {
  return translate_errors("ipsm_jax Adam", [&] {
    BatchShape shape;
    Operands in(args, shape);
    const int64_t n = in.size_of("alive", 0, 1), count = in.size_of("steps", 1, 1);
    const auto alive = in.next<ffi::PRED>("alive", {n});
    const auto steps = in.next<ffi::F32>("steps", {count});
    const auto correction = in.next<ffi::F32>("correction", {});
    if (static_cast<int64_t>(args.size()) != 3 + 4 * count || static_cast<int64_t>(rets.size()) != 3 * count)
      throw std::invalid_argument("for " + std::to_string(count) + " fields there must be " +
                                  std::to_string(3 + 4 * count) + " operands and " + std::to_string(3 * count) +
                                  " results, got " + std::to_string(args.size()) + " and " +
                                  std::to_string(rets.size()));
    const Dimensions slots = args.get<ffi::AnyBuffer>(0)->dimensions();
    const auto operand = [&](const char *name, int64_t group, int64_t f) {
      auto buffer = args.get<ffi::Buffer<ffi::F32>>(3 + group * count + f);
      if (!buffer.has_value()) throw std::invalid_argument(std::string(name) + ": " + buffer.error().message());
      return field_of(name, *buffer, slots);
    };
    const auto result = [&](const char *name, int64_t group, int64_t f) {
      auto buffer = rets.get<ffi::Buffer<ffi::F32>>(group * count + f);
      if (!buffer.has_value()) throw std::invalid_argument(std::string(name) + ": " + buffer.error().message());
      return field_of(name, **buffer, slots);
    };
    XlaExecutor executor(pool);
    static_assert(sizeof(bool) == 1, "XLA's PRED is one byte");
    int64_t item = 0;
    shape.for_each([&](const std::vector<int64_t> &i) {
      std::vector<AdamField> fields;
      for (int64_t f = 0; f < count; f++) {
        const auto gradient = operand("gradient", 3, f);
        const int64_t size = n * gradient.width, start = item * size;
        const auto changed = [&](const char *name, int64_t group) {
          const auto from = operand(name, group, f);
          const auto to = result(name, group, f);
          if (from.width != gradient.width || to.width != gradient.width)
            throw std::invalid_argument(std::string(name) + " and gradient differ in shape");
          // The same place where XLA shares the buffers as it was asked to.
          if (to.data != from.data) std::memcpy(to.data + start, from.data + start, sizeof(float) * size);
          return to.data + start;
        };
        fields.push_back({gradient.width, steps.at(i)[f], gradient.data + start, changed("value", 0),
                          changed("first moment", 1), changed("second moment", 2)});
      }
      training::adam({static_cast<float>(beta1), static_cast<float>(1 - beta1), static_cast<float>(beta2),
                      static_cast<float>(1 - beta2), static_cast<float>(epsilon), 1 / *correction.at(i)},
                     fields, n, reinterpret_cast<const uint8_t *>(alive.at(i)), executor);
      item++;
    });
  });
}

} // namespace
} // namespace ipsm::binding

XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_photometric_cpu, ipsm::binding::photometric,
                              xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_adam_cpu, ipsm::binding::adam,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<double>("beta1")
                                  .Attr<double>("beta2")
                                  .Attr<double>("epsilon"));
