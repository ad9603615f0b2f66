// forward() and backward(): which kernels run, in which order, on which memory.
#include "stages.cuh"

namespace ipsm::cuda {
namespace {

void refuse_what_needs_more_bits(const Call &call) {
  const auto refuse = [](const char *what, int64_t found) {
    throw std::invalid_argument("the batch has " + std::to_string(found) + " " + what +
                                ", more than 2^31 - 1 that 32-bit numbers can name; render fewer items at once");
  };
  const int64_t items = call.batch.items;
  if (items * call.count >= INT32_MAX) refuse("Gaussians", items * call.count);
  if (items * (call.tiles() + 1) >= INT32_MAX) refuse("tiles", items * call.tiles());
  if (call.capacity > 0 && items > (INT32_MAX - 1) / call.capacity)
    throw std::invalid_argument("pair_capacity " + std::to_string(call.capacity) + " times " + std::to_string(items) +
                                " images is more than 2^31 - 1; ask for less room or render fewer images at once");
}

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

} // namespace

void forward(const Call &call, const Forward &out, Scratch &scratch, cudaStream_t stream) {
  if (call.batch.items == 0) return;
  refuse_what_needs_more_bits(call);
  const int64_t total = static_cast<int64_t>(call.batch.items) * call.count;
  const Projected projected = {allocate<int32_t>(scratch, total + 1), allocate<uint32_t>(scratch, total),
                               allocate<uint32_t>(scratch, total)};
  check(cudaMemsetAsync(projected.tile_count + total, 0, sizeof(int32_t), stream), "filling the tile counts");
  project(call, out, projected, stream);
  bin(call, out, projected, scratch, stream);
  blend(call, out, stream);
}

void backward(const Call &call, const Backward &in, const Gradients &out, Scratch &scratch, cudaStream_t stream) {
  if (call.batch.items == 0) return;
  refuse_what_needs_more_bits(call);
  const int64_t items = call.batch.items, pool = items * call.capacity, tiles = call.tiles();
  BackwardScratch work = {};
  work.buckets = call.capacity / kBucket + tiles;
  work.groups = call.capacity / (kBucket * kGroup) + tiles;
  work.stride = kPairGradientSize + round_up(call.channels, kChunk);
  work.gaussian_blocks = blocks_for(call.count, kGaussianThreads);
  work.states = allocate<float2>(scratch, items * work.buckets * kTilePixels);
  work.group_tile = allocate<int32_t>(scratch, items * work.groups);
  work.sums = allocate<float>(scratch, pool * work.stride);
  work.written = allocate<uint8_t>(scratch, pool);
  work.camera = allocate<double>(scratch, items * work.gaussian_blocks * 16);
  work.background = allocate<double>(scratch, items * tiles * 4);
  check(cudaMemsetAsync(work.group_tile, 0xff, items * work.groups * sizeof(int32_t), stream), "filling the groups");
  check(cudaMemsetAsync(work.written, 0, pool, stream), "filling the marks of pairs");
  // Gradients are linear in the images' gradients: each chunk of features adds its part to what the colors gave.
  for (int first = -kChunk; first < call.channels; first += kChunk) {
    replay(call, in, work, first, stream);
    sum_buckets(call, in, work, first, stream);
  }
  finish_gaussians(call, in, work, out, stream);
  finish_camera(call, in, work, out, stream);
}

} // namespace ipsm::cuda
