// What goes into the rasterizer, what comes out, and what its stages hand to each other; shared by all back ends.
#pragma once

#include "config.h"

namespace ipsm {

enum class Footprint : int64_t {
  kExact = 0,      // up to the contour alpha = 1/255
  kThreeSigma = 1, // the original's square of tiles around 3 sigma
};

// What a call renders.
struct View {
  const float *camera_from_world; // (4, 4)
  const float *intrinsics;        // (4,) fx fy cx cy
  const float *background;        // (3,)
  int width, height;
  int degree; // of the spherical harmonics, 0..3
  Footprint footprint;
  bool antialiased;        // scale each opacity by sqrt(det before / det after dilation)
  bool absolute_gradients; // compute sums of |dL/d(mean2d)| over the pixels too
  int channels;            // of the feature image
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
  const float *features;       // (N, C), blended like colors but without background
  int rest;                    // K
};

struct GaussianGradients {
  float *means, *log_scales, *quaternions, *opacity_logits, *sh_dc, *sh_rest, *offset, *features; // shapes as above
  float *absolute; // (N, 2) sums over the pixels of |dL/d(mean2d)|, 0 unless asked for
};

struct Images {
  float *color;    // (H, W, 3)
  float *depth;    // (H, W)
  float *alpha;    // (H, W)
  float *features; // (H, W, C)
};

struct ConstImages {
  const float *color, *depth, *alpha, *features;
};

// One line of cache per projected Gaussian. Written by the projection, read once per (Gaussian, tile) pair.
// The exponent of a pixel at (px, py) is -1/2 (a t^2 + d dy^2) with dx = px - x, dy = py - y, t = dx + s dy: the
// inverse covariance with its square completed, which cannot turn positive by rounding as A dx^2 + 2 B dx dy + C dy^2
// can.
struct alignas(16) Splat { // aligned for 16-byte loads
  float x, y;              // projected mean in pixels, where a pixel's center has integer coordinates
  float a, s, d;           // see above: a = cov_yy / det, s = -cov_xy / cov_yy, d = 1 / cov_yy
  float log2_opacity;      // base 2, so that alpha is one exp2
  float opacity;           // as blended: with the antialiased mode's factor
  float color[3];
  float depth;           // camera z
  int32_t row_min;       // first and last pixel row that can reach kMinAlpha, inside the image
  int32_t row_max;       //
  int32_t color_clamped; // bit c set: channel c is clamped at 0 and gets no gradient
  int32_t radius;        // ceil(3 sigma) in pixels
  int32_t reserved;
};
static_assert(sizeof(Splat) == 64, "a splat is one cache line");
constexpr int kSplatFloats = sizeof(Splat) / 4;

// One entry of a tile's list: which Gaussian, and in which slot its gradient from this tile goes.
struct alignas(8) Pair { // aligned to be read and sorted as one
  int32_t splat, slot;
};

// Gradient of one (Gaussian, tile) pair: sums over the tile's pixels of h = dL/d(exponent) times powers of t and dy,
// then the color and depth gradients. What they mean for covariance and mean is worked out once per Gaussian. The last
// two are the sums of |dL/dx| and |dL/dy|. The gradients of C feature channels follow.
enum PairGradient { kH, kHt, kHtt, kHy, kHty, kHyy, kRed, kGreen, kBlue, kDepth, kAbsX, kAbsY, kPairGradientSize };

struct CameraParams {
  float rotation[9];    // world to camera
  float translation[3]; //
  float center[3];      // camera center in world coordinates, -R^T t
  float fx, fy, cx, cy; // pixels; a pixel's center is at +0.5
  int width, height;
};

// Gradient of the camera: the same fields.
template <typename Number> struct CameraSums {
  Number rotation[9];
  Number translation[3];
  Number intrinsics[4]; // fx fy cx cy
};
using CameraGradient = CameraSums<double>; // summed over many Gaussians

} // namespace ipsm
