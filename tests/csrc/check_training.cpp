// The photometric loss and Adam against their formulas in double precision: odd sizes, numbers that are not finite,
// any number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../../csrc/training/adam.h"
#include "../../csrc/training/photometric.h"
#include "check.h"
#include "executors.h"
#include "scenes.h"

namespace ipsm::driver {
namespace {

using training::kWindow;
using training::kWindowRadius;
using training::PhotometricImages;
using training::PhotometricSums;

// Mean over SSIM's window around a pixel of a product of images, with zeros outside of the image.
template <typename Value>
double windowed(const PhotometricImages &in, int64_t y, int64_t x, int64_t c, const Value &value) {
  double weights[kWindow], norm = 0, total = 0;
  for (int i = 0; i < kWindow; i++) norm += weights[i] = std::exp(-0.5 * std::pow((i - kWindowRadius) / 1.5, 2));
  for (int i = 0; i < kWindow; i++)
    for (int j = 0; j < kWindow; j++) {
      const int64_t v = y + i - kWindowRadius, u = x + j - kWindowRadius;
      if (v < 0 || u < 0 || v >= in.height || u >= in.width) continue;
      total += weights[i] * weights[j] * value((v * in.width + u) * in.channels + c);
    }
  return total / (norm * norm);
}

PhotometricSums by_definition(const PhotometricImages &in) {
  PhotometricSums total{0, 0, 0};
  const double c1 = 1e-4, c2 = 9e-4;
  for (int64_t y = 0; y < in.height; y++)
    for (int64_t x = 0; x < in.width; x++)
      for (int64_t c = 0; c < in.channels; c++) {
        const int64_t at = (y * in.width + x) * in.channels + c;
        const auto image = [&](int64_t i) -> double { return in.image[i]; };
        const auto target = [&](int64_t i) -> double { return in.target[i]; };
        const double mean = windowed(in, y, x, c, image), other = in.mean[at];
        const double square = windowed(in, y, x, c, [&](int64_t i) { return image(i) * image(i); });
        const double mixed = windowed(in, y, x, c, [&](int64_t i) { return image(i) * target(i); });
        total.ssim += (2 * mean * other + c1) * (2 * (mixed - mean * other) + c2) /
                      ((mean * mean + other * other + c1) * (square - mean * mean + in.variance[at] + c2));
        total.l1 += std::fabs(image(at) - in.l1_target[at]);
        total.squared += std::pow(image(at) - target(at), 2);
      }
  const double count = static_cast<double>(in.height * in.width * in.channels);
  return {total.l1 / count, total.ssim / count, total.squared / count};
}

void check_photometric(int64_t height, int64_t width, int64_t channels, Random &random, bool finite) {
  const std::string where = "loss of " + std::to_string(height) + " x " + std::to_string(width) + " x " +
                            std::to_string(channels) + (finite ? "" : ", not finite");
  const int64_t size = height * width * channels;
  Array<float> image(size), target(size), mean(size), variance(size), gradient(size), again(size);
  for (int64_t i = 0; i < size; i++)
    image[i] = finite ? uniform(random) : any_float(random), target[i] = uniform(random);
  PhotometricImages in{image.get(), target.get(), target.get(), mean.get(), variance.get(),
                       height,      width,        channels,     0.2f};
  for (int64_t i = 0; i < size; i++) {
    const int64_t y = i / (width * channels), x = i / channels % width, c = i % channels;
    const auto value = [&](int64_t k) -> double { return target[k]; };
    const double m = windowed(in, y, x, c, value);
    mean[i] = static_cast<float>(m);
    variance[i] = static_cast<float>(windowed(in, y, x, c, [&](int64_t k) { return value(k) * value(k); }) - m * m);
  }
  ThreadPool one(1), four(4);
  const PhotometricSums found = training::photometric(in, gradient.get(), one);
  training::photometric(in, again.get(), four);
  check(std::memcmp(gradient.get(), again.get(), sizeof(float) * size) == 0, where + ": depends on threads");
  if (!finite) return;
  const PhotometricSums wanted = by_definition(in);
  check(std::fabs(found.l1 - wanted.l1) < 1e-6 && std::fabs(found.ssim - wanted.ssim) < 1e-4 &&
            std::fabs(found.squared - wanted.squared) < 1e-6,
        where + ": wrong value");
  for (int64_t i = 0; i < size; i += 1 + size / 3) {
    const auto loss_at = [&](float step) {
      const float before = image[i];
      image[i] = before + step;
      const PhotometricSums sums = by_definition(in);
      image[i] = before;
      return 0.8 * sums.l1 + 0.2 * (1 - sums.ssim);
    };
    const float step = std::min(1e-3f, 0.25f * std::fabs(image[i] - target[i])); // |x| has its corner at the target
    const double slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    check(std::fabs(gradient[i] * size - slope * size) < 2e-2, where + ": wrong gradient");
  }
}

void check_adam(int64_t slots, int64_t width, Random &random, bool finite) {
  const std::string where = "Adam on " + std::to_string(slots) + " x " + std::to_string(width);
  const int64_t size = slots * width;
  const auto number = [&] { return finite ? normal(random) : any_float(random); };
  Array<uint8_t> alive(slots);
  for (int64_t i = 0; i < slots; i++) alive[i] = i % 5 != 2;
  Array<float> gradient(size), value(size), first(size), second(size);
  for (int64_t i = 0; i < size; i++) {
    const bool used = alive[i / width];
    gradient[i] = used ? number() : 0, value[i] = number();
    first[i] = used ? number() : 0, second[i] = used ? std::fabs(number()) : 0;
  }
  const training::AdamConstants constants{0.9f, 0.1f, 0.999f, 0.001f, 1e-15f, 20.0f};
  const auto run = [&](cpu::Executor &executor, Array<float> *arrays[3]) {
    const training::AdamField field{width, 0.01f, gradient.get(), arrays[0]->get(), arrays[1]->get(), arrays[2]->get()};
    training::adam(constants, {field}, slots, alive.get(), executor);
  };
  Array<float> copies[2][3] = {{Array<float>(size), Array<float>(size), Array<float>(size)},
                               {Array<float>(size), Array<float>(size), Array<float>(size)}};
  ThreadPool one(1), four(4);
  for (int threads = 0; threads < 2; threads++) {
    Array<float> *arrays[3] = {&copies[threads][0], &copies[threads][1], &copies[threads][2]};
    const Array<float> *from[3] = {&value, &first, &second};
    for (int k = 0; k < 3; k++) std::copy(from[k]->begin(), from[k]->end(), arrays[k]->begin());
    run(threads ? static_cast<cpu::Executor &>(four) : one, arrays);
  }
  for (int k = 0; k < 3; k++)
    check(std::memcmp(copies[0][k].get(), copies[1][k].get(), sizeof(float) * size) == 0,
          where + ": depends on threads");
  for (int64_t i = 0; finite && i < size; i++) {
    const double m = 0.9 * first[i] + 0.1 * gradient[i], v = 0.999 * second[i] + 0.001 * std::pow(gradient[i], 2);
    const double wanted = alive[i / width] ? value[i] - 0.01 * m / (std::sqrt(v * 20) + 1e-15) : value[i];
    check(std::fabs(copies[0][0][i] - wanted) < 1e-5 * (1 + std::fabs(wanted)), where + ": wrong value");
  }
}

} // namespace

void check_training() {
  Random random(5);
  int losses = 0, steps = 0;
  const int64_t sizes[][3] = {{1, 1, 1}, {1, 1, 3}, {2, 7, 3}, {13, 1, 3}, {11, 12, 4}, {50, 33, 3}, {75, 5, 1}};
  for (const bool finite : {true, false}) {
    for (const auto &size : sizes) check_photometric(size[0], size[1], size[2], random, finite), losses++;
    for (const int64_t slots : {0, 1, 5, 17, 3000})
      for (const int64_t width : {1, 3, 4, 45}) check_adam(slots, width, random, finite), steps++;
  }
  std::printf("training: %d losses, %d steps of Adam\n", losses, steps);
}

} // namespace ipsm::driver
