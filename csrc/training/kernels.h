// The inner loops of the loss and of the optimizer, one table of functions per instruction set. Types only: this header
// is seen by code compiled for different instruction sets, so it must not define functions.
#pragma once

#include <cstdint>

namespace ipsm::training {

// Images are (height, width, channels), contiguous. `mean` and `variance` are those of the target under SSIM's window.
struct PhotometricImages {
  const float *image, *target, *l1_target, *mean, *variance;
  int64_t height, width, channels;
  float ssim_weight;
};

// Sums over one row of the image: |image - l1_target|, SSIM, (image - target)^2.
struct PhotometricSums {
  double l1, ssim, squared;
};

constexpr int kWindowRadius = 5;
constexpr int kWindow = 2 * kWindowRadius + 1;
// A band works on 3 images and 3 maps: 7 rows in the making, and the latest 11 filtered rows of all 6.
constexpr int kBandRows = 7 + 6 * kWindow;

// Adam on a run of numbers: p -= step * m / (sqrt(v * inverse_correction) + epsilon) with the new m and v.
struct AdamConstants {
  float beta1, rest1, beta2, rest2; // rest = 1 - beta, not rounded before the difference is taken
  float epsilon;
  float inverse_correction; // 1 / (1 - beta2^t)
};

struct Kernels {
  // Rows [begin, end) of the gradient of (1 - w) mean |image - l1_target| + w (1 - mean SSIM), and their sums; the
  // pointers are to row 0. `scratch` is kBandRows rows of `stride` zeros: room for a row of the image and 2 * margin,
  // where margin is at least 5 * channels.
  void (*photometric_band)(const PhotometricImages &, int64_t begin, int64_t end, int64_t margin, int64_t stride,
                           float *scratch, PhotometricSums *sums, float *gradient);
  // Moves `count` numbers and updates their moments. `step` is the learning rate / (1 - beta1^t).
  void (*adam)(const AdamConstants &, float step, int64_t count, const float *gradient, float *value, float *first,
               float *second);
};

extern const Kernels kKernelsBaseline;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
#endif

// The table for this machine, see ../rasterizer/cpu/instruction_set.h.
const Kernels &select_kernels();

} // namespace ipsm::training
