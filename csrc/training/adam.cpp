#include "adam.h"

#include <algorithm>

namespace ipsm::training {
namespace {

constexpr int64_t kSlotsPerTask = 512;

} // namespace

void adam(const AdamConstants &constants, const std::vector<AdamField> &fields, int64_t slots, const uint8_t *alive,
          cpu::Executor &executor) {
  const Kernels &kernels = select_kernels();
  executor.for_each((slots + kSlotsPerTask - 1) / kSlotsPerTask, [&](int64_t task) {
    int64_t begin = task * kSlotsPerTask, end = std::min(slots, begin + kSlotsPerTask);
    while (begin < end && !alive[begin]) begin++;
    while (begin < end && !alive[end - 1]) end--;
    if (begin == end) return;
    for (const AdamField &f : fields) {
      const int64_t at = begin * f.width;
      kernels.adam(constants, f.step, (end - begin) * f.width, f.gradient + at, f.value + at, f.first + at,
                   f.second + at);
    }
  });
}

} // namespace ipsm::training
