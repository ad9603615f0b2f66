// Exact nearest neighbors of points in space, by a k-d tree that is built anew for each call.
#pragma once

#include <cstdint>

#include "../rasterizer/cpu/executor.h"

namespace ipsm {

constexpr int kNeighbors = 3;

// For each of `count` points (x, y, z) that is wanted and valid, finds the 3 nearest other valid points, by ascending
// distance and, where distances are equal, ascending index. Points with a coordinate that is not finite count as not
// valid. Writes the mean of the squared distances, infinity where there are fewer than 3 others, and the indices; both
// are 0 where there is nothing to find.
void nearest_neighbors(const float *points, const uint8_t *valid, const uint8_t *wanted, int64_t count,
                       float *mean_squared, int32_t *neighbors, cpu::Executor &executor);

} // namespace ipsm
