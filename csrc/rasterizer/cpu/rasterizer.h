// The CPU rasterizer as a pair of functions on plain arrays. Knows nothing of XLA or Python.
#pragma once

#include "executor.h"
#include "kernels.h"

namespace ipsm::cpu {

// What the forward pass leaves for the backward pass. The pair lists hold `capacity` entries; when a frame has more
// pairs than that, they are left empty and the backward pass sorts once more instead: slower, never wrong.
struct Residuals {
  Splat *splats;           // (N,)
  int32_t *slot_start;     // (N + 1,) first pair slot of each Gaussian; the last entry is the number of pairs
  int32_t *tile_start;     // (tiles + 1,) first pair of each tile
  int32_t *tile_processed; // (tiles,) pairs looked at before all pixels of the tile had stopped
  Pair *pairs;             // (capacity,) by tile, front to back
  int64_t capacity;
};

int64_t tile_count(int width, int height);

// Renders `count` Gaussians. `radii` (count,) is 0 for what is not visible.
// Throws std::length_error when a frame needs more than 2^31 - 1 (Gaussian, tile) pairs, std::bad_alloc when memory
// runs out.
void forward(const View &view, const GaussianInputs &gaussians, int64_t count, const Images &images, int32_t *radii,
             const Residuals &residuals, Executor &executor);

// Gradients of everything, given the images' gradients. `d_camera` receives rotation, translation and intrinsics,
// `d_background` (3,) the background's. The result does not depend on the number of threads.
void backward(const View &view, const GaussianInputs &gaussians, int64_t count, const ConstImages &images,
              const ConstImages &d_images, const Residuals &residuals, const GaussianGradients &d_gaussians,
              CameraGradient &d_camera, float *d_background, Executor &executor);

} // namespace ipsm::cpu
