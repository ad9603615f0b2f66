// One step of Adam over the fields of the Gaussians, in place.
#pragma once

#include <vector>

#include "../rasterizer/cpu/executor.h"
#include "kernels.h"

namespace ipsm::training {

// (slots, width) numbers with their gradient and moments.
struct AdamField {
  int64_t width;
  float step; // learning rate / (1 - beta1^t)
  const float *gradient;
  float *value, *first, *second;
};

// Slots that are not alive have zero gradient and zero moments, which is what allows to leave most of them out. The
// result does not depend on the number of threads.
void adam(const AdamConstants &, const std::vector<AdamField> &, int64_t slots, const uint8_t *alive, cpu::Executor &);

} // namespace ipsm::training
