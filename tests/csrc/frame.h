// One forward and backward pass of the CPU rasterizer on a scene, with all memory that it needs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../../csrc/rasterizer/cpu/executor.h"
#include "scenes.h"

namespace ipsm::driver {

struct Mode {
  int channels;
  Footprint footprint;
  bool antialiased, absolute_gradients;
};

// All 32 combinations of 0, 1, 5 or 33 channels, footprint, antialiasing and absolute gradients.
Mode mode_number(int number);
std::string describe(const Mode &mode);

struct Result {
  std::vector<std::pair<std::string, std::vector<float>>> floats;
  std::vector<std::pair<std::string, std::vector<int32_t>>> integers;
  int64_t pairs;
  bool residuals_untouched; // by the backward pass
};

// Renders with room for `capacity` pairs and takes the gradient for cotangents drawn from `seed`. All memory for
// results is filled with `fill` first: what is not written shows when two fills give two results.
Result run(const Scene &scene, const Mode &mode, int64_t capacity, unsigned char fill, unsigned seed,
           cpu::Executor &executor);

// Name of the first thing that is not the same bit for bit, or nothing.
std::string difference(const Result &a, const Result &b);

} // namespace ipsm::driver
