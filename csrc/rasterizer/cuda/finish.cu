// Last part of the backward pass: from the sums of each pair to the gradients of Gaussians and camera.
#include "stages.cuh"

namespace ipsm::cuda {
namespace {

constexpr int kCameraFields = 16, kBackgroundFields = 4, kFinishThreads = 512;
constexpr int kFewSlots = 32; // what a thread sums up by itself

struct SlotSums {
  float total[kPairGradientSize];
  bool any;

  __device__ void add(const BackwardScratch &work, int64_t slot) {
    if (!work.written[slot]) return;
    const float4 *from = reinterpret_cast<const float4 *>(work.sums + slot * work.stride);
    for (int quad = 0; quad < kPairGradientSize / 4; quad++) {
      const float4 four = from[quad];
      total[4 * quad] += four.x, total[4 * quad + 1] += four.y;
      total[4 * quad + 2] += four.z, total[4 * quad + 3] += four.w;
    }
    any = true;
  }
};
static_assert(kPairGradientSize % 4 == 0, "slots are read in fours");

// Sums each lane's slots [begin, end) in their order. Where there are many, all lanes help: lane l takes every 32nd
// slot from l on.
__device__ SlotSums sum_slots(const BackwardScratch &work, int64_t begin, int64_t end) {
  const int lane = threadIdx.x % kWarp;
  SlotSums own = {};
  if (end - begin <= kFewSlots)
    for (int64_t slot = begin; slot < end; slot++) own.add(work, slot);
  for (unsigned many = __ballot_sync(kAllLanes, end - begin > kFewSlots); many; many &= many - 1) {
    const int owner = __ffs(many) - 1;
    const int64_t from = __shfl_sync(kAllLanes, begin, owner), to = __shfl_sync(kAllLanes, end, owner);
    SlotSums part = {};
    for (int64_t slot = from + lane; slot < to; slot += kWarp) part.add(work, slot);
    for (int k = 0; k < kPairGradientSize; k++) part.total[k] = warp_sum(part.total[k]);
    part.any = __any_sync(kAllLanes, part.any);
    if (lane == owner) own = part;
  }
  return own;
}

// The gradients of one item's Gaussians from number `first` on. The features' are not among them.
__device__ GaussianGradients gradients_of(const Call &call, const Gradients &out, int64_t first) {
  return {out.means + 3 * first,       out.log_scales + 3 * first,
          out.quaternions + 4 * first, out.opacity_logits + first,
          out.sh_dc + 3 * first,       out.sh_rest + 3 * call.rest * first,
          out.offset + 2 * first,      nullptr,
          out.absolute + 2 * first};
}

__global__ void __launch_bounds__(kGaussianThreads, 3)
    gaussian_kernel(const Call call, const Backward in, const BackwardScratch work, const Gradients out) {
  __shared__ float harmonics[kGaussianThreads / kWarp][StagedHarmonics::kFloats];
  __shared__ float camera_sums[kGaussianThreads / kWarp][kCameraFields];
  const int64_t number = blockIdx.x / work.gaussian_blocks;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first = static_cast<int>(blockIdx.x - number * work.gaussian_blocks) * kGaussianThreads + warp * kWarp;
  const Item item = call.batch.locate(static_cast<int32_t>(number));
  View view = view_of(call, item);
  view.channels = 0; // see feature_kernel
  const CameraParams camera = make_camera(view.camera_from_world, view.intrinsics, view.width, view.height);
  const int degree = usable_degree(view.degree, call.rest), i = first + lane;
  const int32_t *slot_start = in.slot_start.at(item);
  const bool fits = slot_start[call.count] <= call.capacity, exists = i < call.count;
  const int64_t pool = number * call.capacity;

  const SlotSums sums =
      sum_slots(work, pool + (exists && fits ? slot_start[i] : 0), pool + (exists && fits ? slot_start[i + 1] : 0));
  const unsigned seen = __ballot_sync(kAllLanes, sums.any);
  GaussianInputs gaussians = gaussians_of(call, item, first < call.count ? first : 0);
  const StagedHarmonics staging(degree);
  staging.load(gaussians.sh_rest, gaussians.rest, seen, harmonics[warp]);

  // Harmonics and their gradients share their memory: gaussian_backward() reads each before it writes there.
  gaussians.sh_rest = harmonics[warp], gaussians.rest = staging.pitch;
  GaussianGradients to = gradients_of(call, out, number * call.count + first);
  float *d_rest = to.sh_rest;
  to.sh_rest = harmonics[warp];
  CameraSums<float> d_camera = {};
  const float otherwise = fits ? 0.0f : not_a_number();
  if (sums.any) {
    gaussian_backward(view, camera, degree, gaussians, lane, in.splats.at(item)[i], sums.total, to, d_camera);
  } else if (exists) {
    gaussians.rest = 0; // written below
    fill_gradients(view, gaussians, lane, to, otherwise);
  }
  __syncwarp();
  const int rest = 3 * call.rest, gaussians_here = min(call.count - first, kWarp);
  for (int j = 0; j < gaussians_here; j++)
    for (int k = lane; k < rest; k += kWarp) {
      const bool computed = seen >> j & 1 && k < staging.used;
      d_rest[static_cast<int64_t>(rest) * j + k] = computed ? harmonics[warp][3 * staging.pitch * j + k] : otherwise;
    }

  const auto sum_field = [&](int field, float value) {
    const float sum = warp_sum(value);
    if (lane == 0) camera_sums[warp][field] = sum;
  };
#pragma unroll
  for (int k = 0; k < 9; k++) sum_field(k, d_camera.rotation[k]);
#pragma unroll
  for (int k = 0; k < 3; k++) sum_field(9 + k, d_camera.translation[k]);
#pragma unroll
  for (int k = 0; k < 4; k++) sum_field(12 + k, d_camera.intrinsics[k]);
  __syncthreads();
  if (threadIdx.x >= kCameraFields) return;
  double sum = 0;
  for (int w = 0; w < kGaussianThreads / kWarp; w++) sum += static_cast<double>(camera_sums[w][threadIdx.x]);
  work.camera[static_cast<int64_t>(blockIdx.x) * kCameraFields + threadIdx.x] = sum;
}

// Gradients of the features: one thread for each Gaussian and channel.
__global__ void feature_kernel(const Call call, const Backward in, const BackwardScratch work, const Gradients out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t per_item = static_cast<int64_t>(call.count) * call.channels;
  if (at >= call.batch.items * per_item) return;
  const int64_t number = at / per_item, i = (at - number * per_item) / call.channels, c = at % call.channels;
  const int32_t *slot_start = in.slot_start.at(call.batch.locate(static_cast<int32_t>(number)));
  const bool fits = slot_start[call.count] <= call.capacity;
  float sum = fits ? 0.0f : not_a_number();
  const int64_t pool = number * call.capacity, end = fits ? pool + slot_start[i + 1] : 0;
  for (int64_t slot = pool + slot_start[i]; slot < end; slot++)
    if (work.written[slot]) sum += work.sums[slot * work.stride + kPairGradientSize + c];
  out.features[at] = sum;
}

// Sums `rows` rows of kFields numbers; the result of field k is returned to thread k. All threads of the block.
template <int kFields> __device__ double sum_rows(const double *rows, int64_t count, double *shared) {
  constexpr int kStrands = kFinishThreads / kFields;
  double sum = 0;
#pragma unroll 4
  for (int64_t row = threadIdx.x / kFields; row < count; row += kStrands)
    sum += rows[row * kFields + threadIdx.x % kFields];
  __syncthreads();
  shared[threadIdx.x] = sum;
  for (int half = kFinishThreads / 2; half >= kFields; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  return shared[threadIdx.x]; // of the thread's own making where it is a result
}

__global__ void __launch_bounds__(kFinishThreads)
    camera_kernel(const Call call, const Backward in, const BackwardScratch work, const Gradients out) {
  __shared__ double shared[kFinishThreads];
  const int64_t number = blockIdx.x;
  const bool fits = in.slot_start.at(call.batch.locate(blockIdx.x))[call.count] <= call.capacity;
  const int k = threadIdx.x;
  const double camera = sum_rows<kCameraFields>(work.camera + number * work.gaussian_blocks * kCameraFields,
                                                work.gaussian_blocks, shared);
  const float of_camera = fits ? static_cast<float>(camera) : not_a_number();
  if (k < 9) out.camera_from_world[16 * number + k / 3 * 4 + k % 3] = of_camera;
  else if (k < 12) out.camera_from_world[16 * number + (k - 9) * 4 + 3] = of_camera;
  else if (k < 16) out.intrinsics[4 * number + k - 12] = of_camera;
  if (k < 4) out.camera_from_world[16 * number + 12 + k] = 0; // the last row is never read
  const double background =
      sum_rows<kBackgroundFields>(work.background + number * call.tiles() * kBackgroundFields, call.tiles(), shared);
  if (k < 3) out.background[3 * number + k] = fits ? static_cast<float>(background) : not_a_number();
}

} // namespace

void finish_gaussians(const Call &call, const Backward &in, const BackwardScratch &work, const Gradients &out,
                      cudaStream_t stream) {
  launch_blocks(gaussian_kernel, call.batch.items * work.gaussian_blocks, kGaussianThreads, stream, call, in, work,
                out);
  const int64_t features = static_cast<int64_t>(call.batch.items) * call.count * call.channels;
  launch_blocks(feature_kernel, blocks_for(features, 256), 256, stream, call, in, work, out);
}

void finish_camera(const Call &call, const Backward &in, const BackwardScratch &work, const Gradients &out,
                   cudaStream_t stream) {
  launch_blocks(camera_kernel, call.batch.items, kFinishThreads, stream, call, in, work, out);
}

} // namespace ipsm::cuda
