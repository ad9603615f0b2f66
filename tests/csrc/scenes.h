// Scenes for the driver: ordinary ones, hard ones and nonsense.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/rasterizer/types.h"

namespace ipsm::driver {

constexpr int kMostChannels = 33;

// Memory of exactly the size asked for, so that the sanitizer sees the first element beyond.
template <typename T> class Array {
public:
  explicit Array(size_t size) : data_(new T[size]()), size_(size) {}
  Array(const Array &other) : Array(other.size_) {
    for (size_t i = 0; i < size_; i++) data_[i] = other.data_[i];
  }
  Array &operator=(const Array &) = delete;
  T *get() const { return data_.get(); }
  T *begin() const { return get(); }
  T *end() const { return get() + size_; }
  T &operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

private:
  std::unique_ptr<T[]> data_;
  size_t size_;
};

struct Scene {
  std::string name;
  int width, height;
  int64_t count;
  int rest;   // harmonics beyond the constant one
  int degree; // 0..3
  Array<float> means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest, offset, features;
  Array<uint8_t> alive;
  Array<float> camera_from_world, intrinsics, background;
  bool sane = true; // finite and moderate: images and gradients must be finite

  Scene(int width, int height, int64_t count, int rest);
  // Everything a gradient exists for.
  std::vector<Array<float> *> operands();
};

using Random = std::mt19937;
float uniform(Random &random); // [0, 1)
float normal(Random &random);
float any_float(Random &random); // of random bytes

// `count` Gaussians of all opacities around (0, 0, 4), most of them in view.
Scene random_scene(unsigned seed, int width, int height, int64_t count);

// Every kind of scene in one size of image.
std::vector<Scene> all_scenes(unsigned seed, int width, int height);

} // namespace ipsm::driver
