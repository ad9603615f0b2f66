// One Gaussian from its parameters to a splat, and from the sums over its pixels back to gradients; and which tiles a
// splat touches. Free of the standard library and with internal linkage, like splat_math.h.
#pragma once

#include "splat_math.h"

namespace ipsm {
namespace {

// Highest degree that `rest` harmonics beyond the constant one allow.
IPSM_HD int usable_degree(int degree, int rest) {
  while (degree > 0 && (degree + 1) * (degree + 1) - 1 > rest) degree--;
  return degree;
}

// Which pixels a splat may touch. Worked out from the splat alone, so that whoever asks later gets the same answer.
struct Coverage {
  int x0, x1, y0, y1; // pixels, inclusive, inside the image; empty when x0 > x1 or y0 > y1
  float q, lean;      // the exact footprint is a t^2 + d dy^2 <= q; its rightmost point lies `lean` below the mean
  bool one_column;    // the exact footprint lies between the first and the last pixel of one column of tiles
};

// Integer pixels within [center - half, center + half], cut to [0, size). Nothing is converted to an integer before it
// is known to fit: the floats may be of any size, or NaN, which covers nothing.
IPSM_HD void pixels_within(float center, float half, int size, int &first, int &last) {
  const float low = center - half, high = center + half;
  first = low < (float)size ? (int)__builtin_ceilf(max_of(low, 0.0f)) : size;
  last = high >= 0 ? (int)__builtin_floorf(min_of(high, (float)(size - 1))) : -1;
}

IPSM_HD_ONCE Coverage coverage_of(Splat p, int width, int height, Footprint footprint) {
  Coverage c = {};
  if (footprint == Footprint::kThreeSigma) { // the original's cut: every tile of the square of tiles around the radius
    const float grid = kTileSize, radius = (float)p.radius;
    const int tiles_x = (width + kTileSize - 1) / kTileSize, tiles_y = (height + kTileSize - 1) / kTileSize;
    c.x0 = kTileSize * (int)clampf((p.x - radius) / grid, 0, tiles_x);
    c.y0 = kTileSize * (int)clampf((p.y - radius) / grid, 0, tiles_y);
    c.x1 = kTileSize * (int)clampf((p.x + radius + grid - 1) / grid, 0, tiles_x) - 1;
    c.y1 = kTileSize * (int)clampf((p.y + radius + grid - 1) / grid, 0, tiles_y) - 1;
    c.x1 = c.x1 < width - 1 ? c.x1 : width - 1, c.y1 = c.y1 < height - 1 ? c.y1 : height - 1;
    return c;
  }
  constexpr float kLn2 = 0.693147180559945309f, kLn255 = 5.541263545158426f;
  const float cov_yy = 1 / p.d, cov_xy = -p.s * cov_yy, cov_xx = 1 / p.a - p.s * cov_xy;
  c.q = 2 * (kLn2 * p.log2_opacity + kLn255);
  const float half_x = __builtin_sqrtf(max_of(0, c.q * cov_xx)), half_y = __builtin_sqrtf(max_of(0, c.q * cov_yy));
  c.lean = half_x * cov_xy / cov_xx;
  pixels_within(p.x, half_x, width, c.x0, c.x1);
  pixels_within(p.y, half_y, height, c.y0, c.y1);
  const int left = c.x0 - c.x0 % kTileSize, right = left + kTileSize < width ? left + kTileSize - 1 : width - 1;
  c.one_column = p.x - half_x >= (float)left && p.x + half_x <= (float)right;
  return c;
}

// Tile columns, inclusive; none when first > last.
struct TileColumns {
  int first, last;
};

// The tile columns that the exact footprint touches in tile row `ty`. The ellipse leaves an interval in x of each row
// of tiles; its ends are at the ellipse's extreme points, or on the border of the row where those lie outside. The
// interval may be too wide, never too narrow: pixels are tested again when blended.
IPSM_HD_ONCE TileColumns tile_row_of(Splat p, Coverage c, int ty) {
  const float inv_a = 1 / p.a, slack = 1e-3f + 1e-6f * __builtin_fabsf(p.x), q = c.q * (1 + 1e-5f) + 1e-4f;
  const float top = max_of((float)(ty * kTileSize), (float)c.y0) - p.y;
  const float bottom = min_of((float)(ty * kTileSize + kTileSize - 1), (float)c.y1) - p.y;
  const float y_right = clampf(c.lean, top, bottom), y_left = clampf(-c.lean, top, bottom);
  const float right = p.x - p.s * y_right + __builtin_sqrtf(max_of(0, (q - p.d * y_right * y_right) * inv_a)) + slack;
  const float left = p.x - p.s * y_left - __builtin_sqrtf(max_of(0, (q - p.d * y_left * y_left) * inv_a)) - slack;
  if (!(left <= (float)c.x1 && right >= (float)c.x0)) return {0, -1};
  const int x0 = (int)__builtin_ceilf(max_of(left, (float)c.x0)),
            x1 = (int)__builtin_floorf(min_of(right, (float)c.x1));
  if (x0 > x1) return {0, -1};
  return {x0 / kTileSize, x1 / kTileSize};
}

// The tile columns in tile row `ty`, one of those between c.y0 and c.y1, for both footprints.
IPSM_HD TileColumns tile_columns(const Splat &p, const Coverage &c, Footprint footprint, int ty) {
  if (footprint == Footprint::kThreeSigma || c.one_column) return {c.x0 / kTileSize, c.x1 / kTileSize};
  return tile_row_of(p, c, ty);
}

// Calls visit(ty, first, last) for every row of tiles that the splat touches, with its first and last tile column.
template <typename Visit>
IPSM_HD void visit_tile_rows(const Splat &p, const Coverage &c, Footprint footprint, const Visit &visit) {
  if (c.x0 > c.x1 || c.y0 > c.y1) return;
  for (int ty = c.y0 / kTileSize; ty <= c.y1 / kTileSize; ty++) {
    const TileColumns columns = tile_columns(p, c, footprint, ty);
    if (columns.first <= columns.last) visit(ty, columns.first, columns.last);
  }
}

IPSM_HD void color_of(const GaussianInputs &in, int64_t i, const float *direction, int degree, float *basis,
                      float *color) {
  harmonics(degree, direction[0], direction[1], direction[2], basis);
  const int used = (degree + 1) * (degree + 1) - 1;
  for (int c = 0; c < 3; c++) color[c] = 0.5f + kSh0 * in.sh_dc[3 * i + c];
  const float *rest = in.sh_rest + 3 * (int64_t)in.rest * i;
  IPSM_UNROLL
  for (int k = 0; k < kMaxHarmonics - 1; k++) {
    if (k >= used) break;
    for (int c = 0; c < 3; c++) color[c] += basis[k + 1] * rest[3 * k + c];
  }
}

// Fills the splat of Gaussian i but for its color, and what it covers; false when it cannot be seen (and `p` is only
// partly written), be it that a number which takes part in the image is not finite.
IPSM_HD bool place_gaussian(const View &view, const CameraParams &camera, const GaussianInputs &in, int64_t i, Splat &p,
                            Coverage &coverage) {
  if (!in.alive[i]) return false;
  Shape shape;
  if (!project_shape(camera, in.means + 3 * i, in.log_scales + 3 * i, in.quaternions + 4 * i, shape)) return false;
  p.opacity = 1 / (1 + __builtin_expf(-in.opacity_logits[i]));
  if (view.antialiased) p.opacity *= antialiasing_factor(shape);
  if (!(p.opacity >= kMinAlpha)) return false;
  p.x = camera.fx * shape.u + camera.cx - 0.5f + in.offset[2 * i];
  p.y = camera.fy * shape.v + camera.cy - 0.5f + in.offset[2 * i + 1];
  if (!(is_finite(p.x) && is_finite(p.y))) return false;
  p.a = shape.cov_yy / shape.det, p.s = -shape.cov_xy / shape.cov_yy, p.d = 1 / shape.cov_yy;
  p.log2_opacity = __builtin_logf(p.opacity) * kLog2e;
  p.depth = shape.point[2];
  const float mid = 0.5f * (shape.cov_xx + shape.cov_yy);
  const float radius = __builtin_ceilf(3 * __builtin_sqrtf(mid + __builtin_sqrtf(max_of(0.1f, mid * mid - shape.det))));
  p.radius = (int32_t)min_of(radius, 1e9f);
  coverage = coverage_of(p, view.width, view.height, view.footprint);
  if (coverage.x0 > coverage.x1 || coverage.y0 > coverage.y1) return false;
  // 0 times infinity would show at pixels that the Gaussian does not touch.
  for (int c = 0; c < view.channels; c++)
    if (!is_finite(in.features[(int64_t)view.channels * i + c])) return false;
  p.row_min = coverage.y0, p.row_max = coverage.y1;
  p.reserved = 0;
  return true;
}

// Fills the color of a splat that place_gaussian() has found visible; false when it is not finite and so the Gaussian
// invisible after all. `degree` is a usable one.
IPSM_HD bool color_gaussian(const CameraParams &camera, int degree, const GaussianInputs &in, int64_t i, Splat &p) {
  float direction[3], basis[kMaxHarmonics], color[3];
  view_direction(camera, in.means + 3 * i, direction);
  color_of(in, i, direction, degree, basis, color);
  p.color_clamped = 0;
  for (int c = 0; c < 3; c++) {
    if (!is_finite(color[c])) return false;
    if (!(color[c] > 0)) p.color_clamped |= 1 << c;
    p.color[c] = max_of(color[c], 0);
  }
  return true;
}

// Sets all gradients of Gaussian i to `value`: 0 where no pixel saw it.
IPSM_HD void fill_gradients(const View &view, const GaussianInputs &in, int64_t i, const GaussianGradients &out,
                            float value) {
  for (int k = 0; k < 3; k++) out.means[3 * i + k] = out.log_scales[3 * i + k] = out.sh_dc[3 * i + k] = value;
  for (int k = 0; k < 4; k++) out.quaternions[4 * i + k] = value;
  for (int k = 0; k < 2; k++) out.offset[2 * i + k] = out.absolute[2 * i + k] = value;
  out.opacity_logits[i] = value;
  const int64_t rest_size = 3 * (int64_t)in.rest;
  for (int64_t k = 0; k < rest_size; k++) out.sh_rest[rest_size * i + k] = value;
  for (int c = 0; c < view.channels; c++) out.features[(int64_t)view.channels * i + c] = value;
}

// Writes all gradients of Gaussian i except those of its features, from `total`, the sums of PairGradient over its
// tiles; adds to the camera's.
template <typename Number>
IPSM_HD void gaussian_backward(const View &view, const CameraParams &camera, int degree, const GaussianInputs &in,
                               int64_t i, const Splat &p, const float *total, const GaussianGradients &out,
                               CameraSums<Number> &d_camera) {
  Shape shape;
  project_shape(camera, in.means + 3 * i, in.log_scales + 3 * i, in.quaternions + 4 * i, shape);
  ImageGradient g = gradient_from_sums(p, total);
  if (view.antialiased) antialiasing_backward(shape, total[kH], g);
  out.offset[2 * i] = g.x, out.offset[2 * i + 1] = g.y;
  out.absolute[2 * i] = total[kAbsX], out.absolute[2 * i + 1] = total[kAbsY];
  // the sum of h is opacity * dL/d(opacity), whatever factor the opacity holds
  out.opacity_logits[i] = total[kH] / (1 + __builtin_expf(in.opacity_logits[i]));
  shape_backward(camera, shape, in.means + 3 * i, g, out.means + 3 * i, out.log_scales + 3 * i, out.quaternions + 4 * i,
                 d_camera);

  float d_color[3];
  for (int c = 0; c < 3; c++) {
    d_color[c] = p.color_clamped >> c & 1 ? 0 : total[kRed + c];
    out.sh_dc[3 * i + c] = kSh0 * d_color[c];
  }
  float direction[3], basis[kMaxHarmonics], weights[kMaxHarmonics] = {}, d_direction[3];
  const float inv_distance = view_direction(camera, in.means + 3 * i, direction);
  harmonics(degree, direction[0], direction[1], direction[2], basis);
  const int used = (degree + 1) * (degree + 1) - 1;
  const int64_t rest_size = 3 * (int64_t)in.rest;
  const float *rest = in.sh_rest + rest_size * i;
  float *d_rest = out.sh_rest + rest_size * i;
  IPSM_UNROLL
  for (int k = 0; k < kMaxHarmonics - 1; k++) {
    if (k >= used) break;
    weights[k + 1] = rest[3 * k] * d_color[0] + rest[3 * k + 1] * d_color[1] + rest[3 * k + 2] * d_color[2];
    for (int c = 0; c < 3; c++) d_rest[3 * k + c] = basis[k + 1] * d_color[c];
  }
  for (int64_t k = 3 * used; k < rest_size; k++) d_rest[k] = 0;
  if (degree > 0) {
    harmonics_backward(degree, direction[0], direction[1], direction[2], weights, d_direction);
    direction_backward(camera, direction, inv_distance, d_direction, out.means + 3 * i, d_camera);
  }
}

} // namespace
} // namespace ipsm
