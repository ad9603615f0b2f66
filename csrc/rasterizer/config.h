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

} // namespace ipsm
