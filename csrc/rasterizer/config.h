// Constants of the rasterizer, shared by all back ends. RASTERIZER conventions of the original 3D Gaussian splatting.
#pragma once

#include <cstdint>

namespace ipsm {

constexpr int kTileSize = 16;              // pixels per tile side
constexpr float kNearPlane = 0.2f;         // camera z at or below is culled
constexpr float kDilation = 0.3f;          // added to both diagonals of the 2D covariance, in square pixels
constexpr float kFrustumSlack = 1.3f;      // x/z and y/z are clamped to this multiple of tan(fov / 2) in the Jacobian
constexpr float kMaxAlpha = 0.99f;         // a Gaussian never hides a pixel completely
constexpr float kMinAlpha = 1.0f / 255.0f; // contributions below are skipped
constexpr float kMinTransmittance = 1e-4f; // a pixel stops before it would get darker than this
constexpr int kMaxHarmonics = 16;          // degree 3

// One line of cache per projected Gaussian. Written by the projection, read once per (Gaussian, tile) pair.
// The exponent of a pixel at (px, py) is -1/2 (a t^2 + d dy^2) with dx = px - x, dy = py - y, t = dx + s dy: the
// inverse covariance with its square completed, which cannot turn positive by rounding as A dx^2 + 2 B dx dy + C dy^2
// can.
struct Splat {
  float x, y;         // projected mean in pixels, where a pixel's centre has integer coordinates
  float a, s, d;      // see above: a = cov_yy / det, s = -cov_xy / cov_yy, d = 1 / cov_yy
  float log2_opacity; // base 2, so that alpha is one exp2
  float opacity;
  float color[3];
  float depth;           // camera z
  int32_t row_min;       // first and last pixel row that can reach kMinAlpha, inside the image
  int32_t row_max;       //
  int32_t color_clamped; // bit c set: channel c is clamped at 0 and gets no gradient
  int32_t reserved[2];
};
static_assert(sizeof(Splat) == 64, "a splat is one cache line");
constexpr int kSplatFloats = sizeof(Splat) / 4;

// One entry of a tile's list: which Gaussian, and in which slot its gradient from this tile goes.
struct Pair {
  int32_t splat, slot;
};

// Gradient of one (Gaussian, tile) pair: sums over the tile's pixels of h = dL/d(exponent) times powers of t and dy,
// then the colour and depth gradients. What they mean for covariance and mean is worked out once per Gaussian.
enum PairGradient { kH, kHt, kHtt, kHy, kHty, kHyy, kRed, kGreen, kBlue, kDepth, kPairGradientSize = 12 };

struct CameraParams {
  float rotation[9];    // world to camera
  float translation[3]; //
  float center[3];      // camera centre in world coordinates, -R^T t
  float fx, fy, cx, cy; // pixels; a pixel's centre is at +0.5
  int width, height;
};

// Gradient of the camera: the same fields, summed over Gaussians in double precision.
struct CameraGradient {
  double rotation[9];
  double translation[3];
  double intrinsics[4]; // fx fy cx cy
};

enum class Footprint : int64_t {
  kExact = 0,      // up to the contour alpha = 1/255
  kThreeSigma = 1, // the original's square of tiles around 3 sigma
};

} // namespace ipsm
