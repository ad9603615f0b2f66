#include "photometric.h"

#include <algorithm>
#include <vector>

namespace ipsm::training {
namespace {

// A band filters 20 rows of the image and 10 of the maps that its neighbors filter too: not below this height, then.
constexpr int64_t kLeastRows = 24;
// So many bands a thread, so that one that others keep busy can leave some of its share.
constexpr int64_t kBandsPerThread = 2;

} // namespace

PhotometricSums photometric(const PhotometricImages &in, float *gradient, cpu::Executor &executor) {
  const int64_t most = std::max<int64_t>(1, in.height / kLeastRows);
  const int64_t bands = std::min(most, kBandsPerThread * executor.threads());
  const int64_t margin = kWindowRadius * in.channels, stride = in.width * in.channels + 2 * margin;
  std::vector<PhotometricSums> rows(in.height);
  const Kernels &kernels = select_kernels();
  executor.for_each(bands, [&](int64_t band) {
    std::vector<float> scratch(kBandRows * stride);
    kernels.photometric_band(in, in.height * band / bands, in.height * (band + 1) / bands, margin, stride,
                             scratch.data(), rows.data(), gradient);
  });
  PhotometricSums total{0, 0, 0};
  for (const PhotometricSums &row : rows) {
    total.l1 += row.l1;
    total.ssim += row.ssim;
    total.squared += row.squared;
  }
  const double count = static_cast<double>(in.height) * in.width * in.channels;
  return {total.l1 / count, total.ssim / count, total.squared / count};
}

} // namespace ipsm::training
