// The CUDA rasterizer as a pair of functions on plain device arrays. Knows nothing of XLA or Python.
//
// A call renders a whole batch. Each item of the batch is complete in itself: the lists that the forward pass leaves
// name Gaussians, tiles and slots of that item only, so that they may be sliced, reordered or repeated like any array.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef IPSM_CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif

#include "../types.h"

namespace ipsm::cuda {

constexpr int kBatchAxes = 4;

// Where one item lies along the batch axes.
struct Item {
  int32_t index[kBatchAxes];
};

// The shape of the batch. Axes that are not needed come first, with size 1.
struct Batch {
  int32_t items; // product of the sizes
  int32_t sizes[kBatchAxes];

  __host__ __device__ Item locate(int32_t item) const {
    Item found = {};
    if (items == 1) return found;
    for (int axis = kBatchAxes - 1; axis >= 0; axis--) {
      found.index[axis] = item % sizes[axis];
      item /= sizes[axis];
    }
    return found;
  }
};

// An operand: the stride, in elements, along each batch axis is 0 where all items share it.
template <typename T> struct Strided {
  T *data;
  int64_t strides[kBatchAxes];

  __host__ __device__ T *at(const Item &item) const {
    int64_t offset = 0;
    for (int axis = 0; axis < kBatchAxes; axis++) offset += strides[axis] * item.index[axis];
    return data + offset;
  }
};

// What both directions are called with. Shapes as in View and GaussianInputs.
struct Call {
  Batch batch;
  int width, height;
  Footprint footprint;
  bool antialiased, absolute_gradients;
  int count;        // N Gaussians an item
  int rest;         // K harmonics beyond the constant one
  int channels;     // C
  int64_t capacity; // room for pairs, an item
  Strided<const float> means, log_scales, quaternions, opacity_logits, sh_dc, sh_rest;
  Strided<const uint8_t> alive;
  Strided<const float> offset, camera_from_world, intrinsics, background, features;
  Strided<const int32_t> degree; // (), cut to 0..3

  __host__ __device__ int tiles_x() const { return (width + kTileSize - 1) / kTileSize; }
  __host__ __device__ int tiles() const { return tiles_x() * ((height + kTileSize - 1) / kTileSize); }
};

// Results of the forward pass, all items one after another. An item that needs more than `capacity` pairs gets NaN
// images, empty lists, and the number that it needs in `pair_count` and at the end of `slot_start`.
struct Forward {
  float *color, *depth, *alpha, *features; // (H, W, 3), (H, W), (H, W), (H, W, C)
  int32_t *radii;                          // (N,) 0 for what is not visible
  int32_t *pair_count;                     // () cut to 2^31 - 1
  Splat *splats;                           // (N,)
  int32_t *slot_start;                     // (N + 1,) first pair slot of each Gaussian
  int32_t *tile_start;                     // (tiles + 1,) first pair of each tile
  int32_t *tile_processed;                 // (tiles,) pairs from here on are seen by no pixel
  Pair *pairs;                             // (capacity,) by tile, front to back
};

// What the backward pass takes besides: the forward pass's results and the gradients of the images.
struct Backward {
  Strided<const float> color, depth, alpha, features;
  Strided<const Splat> splats;
  Strided<const int32_t> slot_start, tile_start, tile_processed;
  Strided<const Pair> pairs;
  Strided<const float> d_color, d_depth, d_alpha, d_features;
};

// Results of the backward pass, all items one after another; NaN for an item whose pairs did not fit.
struct Gradients {
  float *means, *log_scales, *quaternions, *opacity_logits, *sh_dc, *sh_rest, *offset, *camera_from_world, *intrinsics,
      *background, *features, *absolute;
};

// Device memory that lives until the stream has done what the call puts on it. Throws std::bad_alloc.
class Scratch {
public:
  virtual void *allocate(size_t bytes) = 0;

protected:
  ~Scratch() = default;
};

// Both put their work on the stream and return at once; nothing is read back. They throw std::invalid_argument when 32
// bits are too few to number the batch's pairs, Gaussians or tiles, and std::runtime_error when CUDA refuses.
void forward(const Call &call, const Forward &out, Scratch &scratch, cudaStream_t stream);
void backward(const Call &call, const Backward &in, const Gradients &out, Scratch &scratch, cudaStream_t stream);

} // namespace ipsm::cuda
