// The stages that forward() and backward() are made of, and what several of their kernels share.
#pragma once

#include "runtime.cuh"

namespace ipsm::cuda {

constexpr int kTilePixels = kTileSize * kTileSize;
constexpr int kBucket = kWarp; // pairs that one warp of the backward pass works on: a lane each
constexpr int kGroup = 8;      // buckets in one block of the backward pass
constexpr int kChunk = 8;      // feature channels in one pass over a tile
constexpr int kGaussianThreads = 128;

// What the projection leaves for the sort, one entry a Gaussian of the batch.
struct Projected {
  int32_t *tile_count;  // one more than there are Gaussians; the last is 0
  uint32_t *depth_bits; // sorts like the depth; invisible ones come last
  uint32_t *index;      // of the Gaussian in the batch
};

// What the backward pass keeps between its kernels. Tile t of an item owns the buckets from
// tile_start[t] / kBucket + t on, and the groups of buckets from tile_start[t] / (kBucket * kGroup) + t on: enough room
// for any tile_start without counting first.
struct BackwardScratch {
  int64_t buckets, groups; // an item
  float2 *states;          // (items, buckets, kTilePixels) transmittance and what is to come where a bucket begins
  int32_t *group_tile;     // (items, groups) or -1
  float *sums;             // (items, capacity, stride) PairGradient and features' gradients of each pair
  uint8_t *written;        // (items, capacity) whether sums are there
  int stride;
  double *camera;          // (items, Gaussian blocks, 16) partial sums of the camera's gradient
  double *background;      // (items, tiles, 4) partial sums of the background's, and a zero
  int64_t gaussian_blocks; // an item
};

void project(const Call &call, const Forward &out, const Projected &projected, cudaStream_t stream);
void bin(const Call &call, const Forward &out, const Projected &projected, Scratch &scratch, cudaStream_t stream);
void blend(const Call &call, const Forward &out, cudaStream_t stream);
// Starts at `first_channel` of the features, or with colors and depth when it is negative.
void replay(const Call &call, const Backward &in, const BackwardScratch &work, int first_channel, cudaStream_t stream);
void sum_buckets(const Call &call, const Backward &in, const BackwardScratch &work, int first_channel,
                 cudaStream_t stream);
void finish_gaussians(const Call &call, const Backward &in, const BackwardScratch &work, const Gradients &out,
                      cudaStream_t stream);
void finish_camera(const Call &call, const Backward &in, const BackwardScratch &work, const Gradients &out,
                   cudaStream_t stream);

// Pointers of one item of the batch.
__device__ __forceinline__ View view_of(const Call &call, const Item &item) {
  const int degree = *call.degree.at(item);
  return {call.camera_from_world.at(item),
          call.intrinsics.at(item),
          call.background.at(item),
          call.width,
          call.height,
          degree < 0 ? 0 : (degree > 3 ? 3 : degree),
          call.footprint,
          call.antialiased,
          call.absolute_gradients,
          call.channels};
}

// The Gaussians of one item from number `first` on.
__device__ __forceinline__ GaussianInputs gaussians_of(const Call &call, const Item &item, int64_t first) {
  return {call.means.at(item) + 3 * first,
          call.log_scales.at(item) + 3 * first,
          call.quaternions.at(item) + 4 * first,
          call.opacity_logits.at(item) + first,
          call.sh_dc.at(item) + 3 * first,
          call.sh_rest.at(item) + 3 * static_cast<int64_t>(call.rest) * first,
          call.alive.at(item) + first,
          call.offset.at(item) + 2 * first,
          call.features.at(item) + static_cast<int64_t>(call.channels) * first,
          call.rest};
}

// A warp's harmonics in shared memory. Threads would read them from global memory far apart from each other.
struct StagedHarmonics {
  static constexpr int kFloats = kWarp * 3 * (kMaxHarmonics - 1);
  int used;  // floats that the degree in use needs, of each Gaussian
  int pitch; // harmonics from one Gaussian to the next; odd, so that lanes hit different memory banks

  __device__ explicit StagedHarmonics(int degree) {
    const int harmonics = (degree + 1) * (degree + 1) - 1;
    used = 3 * harmonics, pitch = harmonics | 1;
  }
  // Loads those of the lanes whose bit is set. `from` are the harmonics of lane 0's Gaussian.
  __device__ void load(const float *from, int rest, unsigned lanes, float *staged) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll 4
    for (int j = 0; j < kWarp; j++) {
      if (!(lanes >> j & 1)) continue;
      for (int k = lane; k < used; k += kWarp) staged[3 * pitch * j + k] = from[3 * static_cast<int64_t>(rest) * j + k];
    }
    __syncwarp();
  }
};

} // namespace ipsm::cuda
