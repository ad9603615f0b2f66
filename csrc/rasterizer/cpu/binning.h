// From projected Gaussians to one front-to-back list per tile.
#pragma once

#include "executor.h"
#include "rasterizer.h"
#include "workspace.h"

namespace ipsm::cpu {

constexpr int64_t kChunk =
    1024; // Gaussians per piece of parallel work; fixed, so that results do not depend on threads

inline int64_t chunk_count(int64_t gaussians) { return (gaussians + kChunk - 1) / kChunk; }

// Projects all Gaussians and fills splats, slot_start, tile_start, radii and the pairs. These are returned: they lie in
// the residuals when they fit and in the workspace when they do not.
const Pair *project_and_sort(const Kernels &kernels, const View &view, const GaussianInputs &gaussians, int64_t count,
                             int32_t *radii, const Residuals &residuals, Workspace &work, Executor &executor);

} // namespace ipsm::cpu
