// What happens to one Gaussian on its way to the image, and back: rotation, covariance, projection and spherical
// harmonics.
//
// Framework-free and free of the standard library, so that CPU kernels for several instruction sets and CUDA kernels
// can share it: every function has internal linkage, because a shared inline function compiled for AVX-512 must never
// be picked by the linker for a machine without it.
//
// Axes: OpenCV camera (x right, y down, z forward). Matrices are row-major 3x3.
#pragma once

#include "types.h"

#ifdef __CUDACC__
#define IPSM_HD static __host__ __device__ __forceinline__
#define IPSM_HD_ONCE static __host__ __device__ __noinline__ // one compiled version, so that all callers get equal bits
#define IPSM_UNROLL _Pragma("unroll")                        // for arrays that are to live in registers
#else
#define IPSM_HD static inline
#define IPSM_HD_ONCE static inline
#define IPSM_UNROLL
#endif

namespace ipsm {
namespace {

constexpr float kLog2e = 1.44269504088896341f;

IPSM_HD float min_of(float a, float b) { return a < b ? a : b; }
IPSM_HD float max_of(float a, float b) { return a > b ? a : b; }
IPSM_HD float clampf(float v, float lo, float hi) { return v < lo ? lo : (v > hi ? hi : v); }
IPSM_HD bool is_finite(float v) { return v - v == 0; }

IPSM_HD CameraParams make_camera(const float *camera_from_world, const float *intrinsics, int width, int height) {
  CameraParams c;
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 3; j++) c.rotation[3 * i + j] = camera_from_world[4 * i + j];
    c.translation[i] = camera_from_world[4 * i + 3];
  }
  for (int j = 0; j < 3; j++) {
    c.center[j] = 0;
    for (int i = 0; i < 3; i++) c.center[j] -= c.rotation[3 * i + j] * c.translation[i];
  }
  c.fx = intrinsics[0], c.fy = intrinsics[1], c.cx = intrinsics[2], c.cy = intrinsics[3];
  c.width = width, c.height = height;
  return c;
}

// Rotation matrix of a unit quaternion (w, x, y, z).
IPSM_HD void rotation_from_quaternion(const float *q, float *r) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  r[0] = 1 - 2 * (y * y + z * z), r[1] = 2 * (x * y - w * z), r[2] = 2 * (x * z + w * y);
  r[3] = 2 * (x * y + w * z), r[4] = 1 - 2 * (x * x + z * z), r[5] = 2 * (y * z - w * x);
  r[6] = 2 * (x * z - w * y), r[7] = 2 * (y * z + w * x), r[8] = 1 - 2 * (x * x + y * y);
}

// Gradient of the above: dL/dR (9) to dL/dq (4).
IPSM_HD void rotation_backward(const float *q, const float *g, float *dq) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  dq[0] = 2 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]));
  dq[1] = 2 * (-2 * x * (g[4] + g[8]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) + w * (g[7] - g[5]));
  dq[2] = 2 * (x * (g[1] + g[3]) - 2 * y * (g[0] + g[8]) + z * (g[5] + g[7]) + w * (g[2] - g[6]));
  dq[3] = 2 * (x * (g[2] + g[6]) + y * (g[5] + g[7]) - 2 * z * (g[0] + g[4]) + w * (g[3] - g[1]));
}

// Real spherical harmonics with the signs of the original 3D Gaussian splatting; direction (x, y, z) is a unit vector.
constexpr float kSh0 = 0.28209479177387814f;
constexpr float kSh1 = 0.4886025119029199f;
constexpr float kSh2a = 1.0925484305920792f, kSh2b = 0.31539156525252005f, kSh2c = 0.5462742152960396f;
constexpr float kSh3a = 0.5900435899266435f, kSh3b = 2.890611442640554f, kSh3c = 0.4570457994644658f;
constexpr float kSh3d = 0.3731763325901154f, kSh3e = 1.445305721320277f;

IPSM_HD void harmonics(int degree, float x, float y, float z, float *b) {
  b[0] = kSh0;
  if (degree < 1) return;
  b[1] = -kSh1 * y, b[2] = kSh1 * z, b[3] = -kSh1 * x;
  if (degree < 2) return;
  const float xx = x * x, yy = y * y, zz = z * z;
  b[4] = kSh2a * x * y, b[5] = -kSh2a * y * z, b[6] = kSh2b * (2 * zz - xx - yy);
  b[7] = -kSh2a * x * z, b[8] = kSh2c * (xx - yy);
  if (degree < 3) return;
  b[9] = -kSh3a * y * (3 * xx - yy), b[10] = kSh3b * x * y * z, b[11] = -kSh3c * y * (4 * zz - xx - yy);
  b[12] = kSh3d * z * (2 * zz - 3 * xx - 3 * yy), b[13] = -kSh3c * x * (4 * zz - xx - yy);
  b[14] = kSh3e * z * (xx - yy), b[15] = -kSh3a * x * (xx - 3 * yy);
}

// Gradient of sum_k w[k] * harmonic_k(direction) with respect to the direction, taken as a free vector.
IPSM_HD void harmonics_backward(int degree, float x, float y, float z, const float *w, float *g) {
  g[0] = g[1] = g[2] = 0;
  if (degree < 1) return;
  g[0] = -kSh1 * w[3], g[1] = -kSh1 * w[1], g[2] = kSh1 * w[2];
  if (degree < 2) return;
  g[0] += kSh2a * (y * w[4] - z * w[7]) - 2 * kSh2b * x * w[6] + 2 * kSh2c * x * w[8];
  g[1] += kSh2a * (x * w[4] - z * w[5]) - 2 * kSh2b * y * w[6] - 2 * kSh2c * y * w[8];
  g[2] += -kSh2a * (y * w[5] + x * w[7]) + 4 * kSh2b * z * w[6];
  if (degree < 3) return;
  const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  g[0] += -6 * kSh3a * xy * w[9] + kSh3b * yz * w[10] + 2 * kSh3c * xy * w[11] - 6 * kSh3d * xz * w[12] -
          kSh3c * (4 * zz - 3 * xx - yy) * w[13] + 2 * kSh3e * xz * w[14] - 3 * kSh3a * (xx - yy) * w[15];
  g[1] += -3 * kSh3a * (xx - yy) * w[9] + kSh3b * xz * w[10] - kSh3c * (4 * zz - xx - 3 * yy) * w[11] -
          6 * kSh3d * yz * w[12] + 2 * kSh3c * xy * w[13] - 2 * kSh3e * yz * w[14] + 6 * kSh3a * xy * w[15];
  g[2] += kSh3b * xy * w[10] - 8 * kSh3c * yz * w[11] + kSh3d * (6 * zz - 3 * xx - 3 * yy) * w[12] -
          8 * kSh3c * xz * w[13] + kSh3e * (xx - yy) * w[14];
}

// Everything about one Gaussian's shape that both directions need.
struct Shape {
  float point[3];           // camera coordinates
  float u, v, uc, vc;       // x/z, y/z and the clamped pair that enters the Jacobian
  float inv_z, jx, jy;      // 1/z, fx/z, fy/z
  float unit_quaternion[4]; //
  float inv_norm;           // 1 / |quaternion|
  float rotation[9];        // of the Gaussian
  float scale[3];
  float footprint[6];                // B (2x3) = J W R S; covariance = B B^T
  float transform[6];                // T (2x3) = J W
  float cov_xx, cov_xy, cov_yy, det; // dilated covariance
  float cross[3], det_before;        // cross product of B's rows; its square is the determinant before dilation
};

// Fills `s`. False when the Gaussian is culled: behind the near plane, degenerate, or not finite.
IPSM_HD bool project_shape(const CameraParams &c, const float *mean, const float *log_scale, const float *quaternion,
                           Shape &s) {
  for (int i = 0; i < 3; i++)
    s.point[i] = c.rotation[3 * i] * mean[0] + c.rotation[3 * i + 1] * mean[1] + c.rotation[3 * i + 2] * mean[2] +
                 c.translation[i];
  const float z = s.point[2];
  if (!(z > kNearPlane && z < 1e30f)) return false; // also refuses NaN
  s.inv_z = 1 / z;
  s.u = s.point[0] * s.inv_z, s.v = s.point[1] * s.inv_z;
  const float lim_x = kFrustumSlack * 0.5f * c.width / c.fx, lim_y = kFrustumSlack * 0.5f * c.height / c.fy;
  s.uc = clampf(s.u, -lim_x, lim_x), s.vc = clampf(s.v, -lim_y, lim_y);
  s.jx = c.fx * s.inv_z, s.jy = c.fy * s.inv_z;
  for (int k = 0; k < 3; k++) {
    s.transform[k] = s.jx * (c.rotation[k] - s.uc * c.rotation[6 + k]);
    s.transform[3 + k] = s.jy * (c.rotation[3 + k] - s.vc * c.rotation[6 + k]);
    s.scale[k] = __builtin_expf(log_scale[k]);
  }
  const float norm2 = quaternion[0] * quaternion[0] + quaternion[1] * quaternion[1] + quaternion[2] * quaternion[2] +
                      quaternion[3] * quaternion[3];
  s.inv_norm = 1 / __builtin_sqrtf(norm2);
  for (int k = 0; k < 4; k++) s.unit_quaternion[k] = quaternion[k] * s.inv_norm;
  rotation_from_quaternion(s.unit_quaternion, s.rotation);
  for (int r = 0; r < 2; r++)
    for (int k = 0; k < 3; k++)
      s.footprint[3 * r + k] =
          s.scale[k] * (s.transform[3 * r] * s.rotation[k] + s.transform[3 * r + 1] * s.rotation[3 + k] +
                        s.transform[3 * r + 2] * s.rotation[6 + k]);
  const float *b = s.footprint;
  const float xx = b[0] * b[0] + b[1] * b[1] + b[2] * b[2], yy = b[3] * b[3] + b[4] * b[4] + b[5] * b[5];
  s.cov_xx = xx + kDilation;
  s.cov_xy = b[0] * b[3] + b[1] * b[4] + b[2] * b[5];
  s.cov_yy = yy + kDilation;
  // xx yy - xy^2 is the squared cross product of B's rows; written so, a needle's determinant does not cancel away.
  s.cross[0] = b[1] * b[5] - b[2] * b[4], s.cross[1] = b[2] * b[3] - b[0] * b[5];
  s.cross[2] = b[0] * b[4] - b[1] * b[3];
  s.det_before = s.cross[0] * s.cross[0] + s.cross[1] * s.cross[1] + s.cross[2] * s.cross[2];
  s.det = s.det_before + kDilation * (xx + yy) + kDilation * kDilation;
  return s.det > 0 && s.det < 3e38f; // NaN and infinity are refused too
}

// Unit direction from the camera center to the mean; returns 1 / distance.
IPSM_HD float view_direction(const CameraParams &c, const float *mean, float *direction) {
  const float dx = mean[0] - c.center[0], dy = mean[1] - c.center[1], dz = mean[2] - c.center[2];
  const float inv = 1 / __builtin_sqrtf(dx * dx + dy * dy + dz * dz);
  direction[0] = dx * inv, direction[1] = dy * inv, direction[2] = dz * inv;
  return inv;
}

// The gradient that arrives at one Gaussian from the image.
struct ImageGradient {
  float x, y;                   // of the projected mean, pixels
  float cov_xx, cov_xy, cov_yy; // cov_xy counted once
  float det_before;             // of the undilated covariance, through the antialiased opacity alone
  float depth;
};

// Turns the sums over pixels into gradients of mean and covariance (chain rule of a, s, d in `Splat`).
IPSM_HD ImageGradient gradient_from_sums(const Splat &p, const float *sum) {
  const float as = p.a * p.s;
  const float ga = -0.5f * sum[kHtt], gs = -p.a * sum[kHty], gd = -0.5f * sum[kHyy];
  ImageGradient g;
  g.x = p.a * sum[kHt];
  g.y = as * sum[kHt] + p.d * sum[kHy];
  g.cov_xx = -ga * p.a * p.a;
  g.cov_xy = -2 * ga * p.a * as - gs * p.d;
  g.cov_yy = -ga * as * as - gs * p.s * p.d - gd * p.d * p.d;
  g.det_before = 0;
  g.depth = sum[kDepth];
  return g;
}

// Factor on the opacity in the antialiased mode: what dilation adds in area is taken from the opacity.
IPSM_HD float antialiasing_factor(const Shape &s) { return __builtin_sqrtf(s.det_before / s.det); }

// Adds the gradient that comes through the factor; `sum_h` is opacity times the gradient of the (scaled) opacity. The
// undilated determinant gets its gradient by itself, because its derivatives by the covariance cancel for needles.
IPSM_HD void antialiasing_backward(const Shape &s, float sum_h, ImageGradient &g) {
  if (!(s.det_before > 0)) return;
  const float along = -0.5f * sum_h / s.det;
  g.det_before = 0.5f * sum_h / s.det_before;
  g.cov_xx += along * s.cov_yy, g.cov_yy += along * s.cov_xx, g.cov_xy -= 2 * along * s.cov_xy;
}

// Gradient of mean, log scales and quaternion; adds to the camera's.
template <typename Number>
IPSM_HD void shape_backward(const CameraParams &c, const Shape &s, const float *mean, const ImageGradient &g,
                            float *d_mean, float *d_log_scale, float *d_quaternion, CameraSums<Number> &d_camera) {
  float d_foot[6], d_rot[9], d_transform[6];
  for (int k = 0; k < 3; k++) {
    const float b0 = s.footprint[k], b1 = s.footprint[3 + k];
    d_foot[k] = 2 * g.cov_xx * b0 + g.cov_xy * b1;
    d_foot[3 + k] = g.cov_xy * b0 + 2 * g.cov_yy * b1;
  }
  if (g.det_before != 0) {
    const float *b = s.footprint, *c = s.cross,
                twice = 2 * g.det_before; // d|b0 x b1|^2 = 2 (b1 x c) db0 + 2 (c x b0) db1
    for (int k = 0; k < 3; k++) {
      const int m = (k + 1) % 3, n = (k + 2) % 3;
      d_foot[k] += twice * (b[3 + m] * c[n] - b[3 + n] * c[m]);
      d_foot[3 + k] += twice * (c[m] * b[n] - c[n] * b[m]);
    }
  }
  for (int r = 0; r < 2; r++)
    for (int i = 0; i < 3; i++) {
      float sum = 0;
      for (int k = 0; k < 3; k++) sum += d_foot[3 * r + k] * s.rotation[3 * i + k] * s.scale[k];
      d_transform[3 * r + i] = sum;
    }
  for (int k = 0; k < 3; k++) {
    float ds = 0;
    for (int i = 0; i < 3; i++) {
      const float dm = s.transform[i] * d_foot[k] + s.transform[3 + i] * d_foot[3 + k];
      ds += dm * s.rotation[3 * i + k];
      d_rot[3 * i + k] = dm * s.scale[k];
    }
    d_log_scale[k] = ds * s.scale[k];
  }
  float dq[4];
  rotation_backward(s.unit_quaternion, d_rot, dq);
  float along = 0;
  for (int k = 0; k < 4; k++) along += dq[k] * s.unit_quaternion[k];
  for (int k = 0; k < 4; k++) d_quaternion[k] = (dq[k] - along * s.unit_quaternion[k]) * s.inv_norm;

  // transform = J W: J's rows are (jx, 0, -jx uc) and (0, jy, -jy vc)
  float d_j[6];
  for (int r = 0; r < 2; r++)
    for (int k = 0; k < 3; k++) {
      float sum = 0;
      for (int i = 0; i < 3; i++) sum += d_transform[3 * r + i] * c.rotation[3 * k + i];
      d_j[3 * r + k] = sum;
    }
  for (int i = 0; i < 3; i++) {
    d_camera.rotation[i] += s.jx * d_transform[i];
    d_camera.rotation[3 + i] += s.jy * d_transform[3 + i];
    d_camera.rotation[6 + i] -= s.jx * s.uc * d_transform[i] + s.jy * s.vc * d_transform[3 + i];
  }
  const float d_jx = d_j[0] - s.uc * d_j[2], d_jy = d_j[4] - s.vc * d_j[5];
  const float du = c.fx * g.x + (s.uc == s.u ? -s.jx * d_j[2] : 0.0f);
  const float dv = c.fy * g.y + (s.vc == s.v ? -s.jy * d_j[5] : 0.0f);
  d_camera.intrinsics[0] += d_jx * s.inv_z + g.x * s.u;
  d_camera.intrinsics[1] += d_jy * s.inv_z + g.y * s.v;
  d_camera.intrinsics[2] += g.x;
  d_camera.intrinsics[3] += g.y;
  const float d_point[3] = {du * s.inv_z, dv * s.inv_z,
                            g.depth - (d_jx * s.jx + d_jy * s.jy + du * s.u + dv * s.v) * s.inv_z};
  for (int j = 0; j < 3; j++) {
    d_mean[j] = c.rotation[j] * d_point[0] + c.rotation[3 + j] * d_point[1] + c.rotation[6 + j] * d_point[2];
    for (int i = 0; i < 3; i++) d_camera.rotation[3 * i + j] += d_point[i] * mean[j];
    d_camera.translation[j] += d_point[j];
  }
}

// Gradient of the viewing direction, on to the mean and to the camera through its center -R^T t.
template <typename Number>
IPSM_HD void direction_backward(const CameraParams &c, const float *direction, float inv_distance,
                                const float *d_direction, float *d_mean, CameraSums<Number> &d_camera) {
  const float along = d_direction[0] * direction[0] + d_direction[1] * direction[1] + d_direction[2] * direction[2];
  for (int j = 0; j < 3; j++) {
    const float d = (d_direction[j] - along * direction[j]) * inv_distance;
    d_mean[j] += d;
    for (int i = 0; i < 3; i++) { // center_j = -sum_i R_ij t_i, and the center's gradient is -d
      d_camera.rotation[3 * i + j] += c.translation[i] * d;
      d_camera.translation[i] += c.rotation[3 * i + j] * d;
    }
  }
}

} // namespace
} // namespace ipsm
