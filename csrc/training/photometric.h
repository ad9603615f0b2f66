// The photometric loss of one image, with its gradient.
#pragma once

#include "../rasterizer/cpu/executor.h"
#include "kernels.h"

namespace ipsm::training {

// Writes the gradient, of the image's shape, of (1 - w) mean |image - l1_target| + w (1 - mean SSIM), and returns the
// means of |image - l1_target|, SSIM and (image - target)^2 over all numbers. The result does not depend on the number
// of threads. The image must not be empty.
PhotometricSums photometric(const PhotometricImages &, float *gradient, cpu::Executor &);

} // namespace ipsm::training
