// The inner kernels, one table of functions per instruction set. Types only: this header is seen by code compiled for
// different instruction sets, so it must not define functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../types.h"

namespace ipsm::cpu {

// A growing list of tile ids. `grow` makes room for `extra` more; it lives in code for the baseline instruction set.
struct TileList {
  uint32_t *data;
  size_t size, capacity;
  void (*grow)(TileList &, size_t extra);
};

struct TileImage {
  int tile_x, tile_y;
  const Splat *splats;
  const Pair *pairs; // this tile's, front to back
  int count;
  const float *features; // (N, C) of the Gaussians
  float *scratch;        // room for (kTileSize + 1) * C rows of kTileSize floats, 64-byte aligned
};

struct Kernels {
  const char *name;
  // Projects Gaussians [begin, end): writes splats, radii (0 = invisible) and the number of tiles; appends the tile
  // ids.
  void (*project)(const View &, const GaussianInputs &, int64_t begin, int64_t end, Splat *, int32_t *radii,
                  uint32_t *tile_count, TileList &);
  // Blends one tile into the images; returns how many of its splats were looked at before all pixels stopped.
  int (*blend)(const View &, const TileImage &, const Images &);
  // Gradient of the first `processed` splats of one tile, given the images and their gradients: each goes to its slot
  // of `sums`, kPairGradientSize plus view.channels floats, and sets `written` there.
  void (*blend_backward)(const View &, const TileImage &, int processed, const ConstImages &, const ConstImages &d,
                         float *sums, uint8_t *written);
  // Gradient of Gaussians [begin, end) from the sums of their pairs, as far as these were written; slots of Gaussian i
  // begin at slot_start[i] and end at slot_start[i + 1].
  void (*project_backward)(const View &, const GaussianInputs &, int64_t begin, int64_t end, const Splat *,
                           const int32_t *slot_start, const float *sums, const uint8_t *written,
                           const GaussianGradients &, CameraGradient &);
};

extern const Kernels kKernelsBaseline;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
#endif

// The table for this machine, see instruction_set.h.
const Kernels &select_kernels();

} // namespace ipsm::cpu
