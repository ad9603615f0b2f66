// From Gaussians to splats: one thread each.
#include "stages.cuh"

namespace ipsm::cuda {
namespace {

constexpr uint32_t kInvisible = 0xffffffffu;

__global__ void __launch_bounds__(kGaussianThreads)
    project_kernel(const Call call, const Forward out, const Projected projected) {
  __shared__ float harmonics[kGaussianThreads / kWarp][StagedHarmonics::kFloats];
  const int blocks = (call.count + kGaussianThreads - 1) / kGaussianThreads; // an item
  const int number = blockIdx.x / blocks, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first = (blockIdx.x - number * blocks) * kGaussianThreads + warp * kWarp; // of the warp's Gaussians
  if (first >= call.count) return;
  const Item item = call.batch.locate(number);
  const View view = view_of(call, item);
  const CameraParams camera = make_camera(view.camera_from_world, view.intrinsics, view.width, view.height);
  const int degree = usable_degree(view.degree, call.rest);
  GaussianInputs in = gaussians_of(call, item, first);
  const bool exists = first + lane < call.count;

  Splat splat;
  Coverage coverage = {};
  const bool placed = exists && place_gaussian(view, camera, in, lane, splat, coverage);
  const StagedHarmonics staging(degree);
  staging.load(in.sh_rest, in.rest, __ballot_sync(kAllLanes, placed), harmonics[warp]);
  if (!exists) return;

  const int64_t g = static_cast<int64_t>(number) * call.count + first + lane;
  int tiles = 0;
  in.sh_rest = harmonics[warp], in.rest = staging.pitch;
  const bool visible = placed && color_gaussian(camera, degree, in, lane, splat);
  if (visible) {
    visit_tile_rows(splat, coverage, view.footprint, [&](int, int left, int right) { tiles += right - left + 1; });
    out.splats[g] = splat;
  }
  out.radii[g] = visible ? splat.radius : 0;
  projected.tile_count[g] = tiles;
  projected.depth_bits[g] = tiles ? __float_as_uint(splat.depth) : kInvisible; // depths are positive
  projected.index[g] = static_cast<uint32_t>(g);
}

} // namespace

void project(const Call &call, const Forward &out, const Projected &projected, cudaStream_t stream) {
  launch_blocks(project_kernel, call.batch.items * blocks_for(call.count, kGaussianThreads), kGaussianThreads, stream,
                call, out, projected);
}

} // namespace ipsm::cuda
