// The inner kernels, one table of functions per instruction set. Types only: this header is seen by code compiled for
// different instruction sets, so it must not define functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../config.h"

namespace ipsm::cpu {

struct View {
  const float *camera_from_world; // (4, 4)
  const float *intrinsics;        // (4,) fx fy cx cy
  const float *background;        // (3,)
  int width, height;
  int degree; // of the spherical harmonics, 0..3
  Footprint footprint;
};

struct GaussianInputs {
  const float *means;          // (N, 3)
  const float *log_scales;     // (N, 3)
  const float *quaternions;    // (N, 4)
  const float *opacity_logits; // (N,)
  const float *sh_dc;          // (N, 3)
  const float *sh_rest;        // (N, K, 3)
  const uint8_t *alive;        // (N,)
  const float *offset;         // (N, 2) pixels, added to the projected mean
  int rest;                    // K
};

struct GaussianGradients {
  float *means, *log_scales, *quaternions, *opacity_logits, *sh_dc, *sh_rest, *offset; // shapes as above
};

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
};

struct Kernels {
  const char *name;
  // Projects Gaussians [begin, end): writes splats, radii (0 = invisible) and the number of tiles; appends the tile
  // ids.
  void (*project)(const View &, const GaussianInputs &, int64_t begin, int64_t end, Splat *, int32_t *radii,
                  uint32_t *tile_count, TileList &);
  // Blends one tile into (H, W, 3), (H, W), (H, W); returns how many of its splats were looked at before all pixels
  // stopped.
  int (*blend)(const View &, const TileImage &, float *color, float *depth, float *alpha);
  // Gradient of the first `processed` splats of one tile: each goes to its slot of `sums`, kPairGradientSize floats,
  // and sets `written` there. Images come first, their gradients (d_*) after.
  void (*blend_backward)(const View &, const TileImage &, int processed, const float *color, const float *depth,
                         const float *alpha, const float *d_color, const float *d_depth, const float *d_alpha,
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

// The best table for this machine. The environment variable IPSM_JAX_SIMD (baseline, avx2, avx512) asks for a lesser
// one.
const Kernels &select_kernels();

} // namespace ipsm::cpu
