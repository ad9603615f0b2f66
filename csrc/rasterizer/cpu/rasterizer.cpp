#include "rasterizer.h"

#include <cstring>

#include "binning.h"

namespace ipsm::cpu {
namespace {

constexpr int64_t kTilesPerTask = 4;

int tiles_across(int pixels) { return (pixels + kTileSize - 1) / kTileSize; }

// Calls work(tile, TileImage) for every tile, in parallel.
template <typename Work>
void for_each_tile(const View &view, const GaussianInputs &gaussians, const Residuals &residuals, const Pair *pairs,
                   Executor &executor, const Work &work) {
  const int across = tiles_across(view.width);
  const int64_t tiles = tile_count(view.width, view.height);
  executor.for_each((tiles + kTilesPerTask - 1) / kTilesPerTask, [&](int64_t task) {
    float *scratch = thread_scratch(static_cast<size_t>(kTileSize + 1) * kTileSize * view.channels);
    for (int64_t tile = task * kTilesPerTask; tile < tiles && tile < (task + 1) * kTilesPerTask; tile++) {
      const int32_t start = residuals.tile_start[tile];
      work(tile, TileImage{static_cast<int>(tile % across), static_cast<int>(tile / across), residuals.splats,
                           pairs + start, residuals.tile_start[tile + 1] - start, gaussians.features, scratch});
    }
  });
}

// The background's gradient: what of each pixel's reaches it, summed in bands of rows so that the result does not
// depend on the number of threads.
void background_backward(const View &view, const float *alpha, const float *d_color, Buffer<double> &memory,
                         float *d_background, Executor &executor) {
  constexpr int64_t kRows = 16;
  const int64_t bands = (view.height + kRows - 1) / kRows;
  double *partial = memory.reserve(3 * bands);
  executor.for_each(bands, [&](int64_t band) {
    const int64_t end = (band + 1) * kRows < view.height ? (band + 1) * kRows : view.height;
    double sum[3] = {};
    for (int64_t i = band * kRows * view.width; i < end * view.width; i++)
      for (int c = 0; c < 3; c++) sum[c] += (1 - alpha[i]) * static_cast<double>(d_color[3 * i + c]);
    for (int c = 0; c < 3; c++) partial[3 * band + c] = sum[c];
  });
  double total[3] = {};
  for (int64_t i = 0; i < 3 * bands; i++) total[i % 3] += partial[i];
  for (int c = 0; c < 3; c++) d_background[c] = static_cast<float>(total[c]);
}

} // namespace

int64_t tile_count(int width, int height) { return static_cast<int64_t>(tiles_across(width)) * tiles_across(height); }

void forward(const View &view, const GaussianInputs &gaussians, int64_t count, const Images &images, int32_t *radii,
             const Residuals &residuals, Executor &executor) {
  const Kernels &kernels = select_kernels();
  BorrowedWorkspace work;
  const Pair *pairs = project_and_sort(kernels, view, gaussians, count, radii, residuals, *work, executor);
  for_each_tile(view, gaussians, residuals, pairs, executor, [&](int64_t tile, const TileImage &image) {
    residuals.tile_processed[tile] = kernels.blend(view, image, images);
  });
}

void backward(const View &view, const GaussianInputs &gaussians, int64_t count, const ConstImages &images,
              const ConstImages &d_images, const Residuals &residuals, const GaussianGradients &d_gaussians,
              CameraGradient &d_camera, float *d_background, Executor &executor) {
  const Kernels &kernels = select_kernels();
  BorrowedWorkspace work;
  const int64_t pair_count = residuals.slot_start[count];
  const Pair *pairs = residuals.pairs;
  if (pair_count > residuals.capacity) {
    // Same input, same order: only the lists are new. The rest goes where nobody looks, because residuals are read-only
    // here.
    Residuals again = residuals;
    again.splats = work->splats.reserve(count);
    again.slot_start = work->slot_start.reserve(count + 1);
    again.tile_start = work->tile_start.reserve(tile_count(view.width, view.height) + 1);
    pairs = project_and_sort(kernels, view, gaussians, count, work->radii.reserve(count), again, *work, executor);
  }
  float *sums = work->sums.reserve(pair_count * (kPairGradientSize + view.channels));
  // Most pairs of a trained scene lie behind what stops their tile: their sums are neither written nor read.
  uint8_t *written = work->written.reserve(pair_count);
  constexpr int64_t kPiece = 1 << 18;
  executor.for_each((pair_count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t begin = piece * kPiece;
    std::memset(written + begin, 0, pair_count - begin < kPiece ? pair_count - begin : kPiece);
  });
  for_each_tile(view, gaussians, residuals, pairs, executor, [&](int64_t tile, const TileImage &image) {
    kernels.blend_backward(view, image, residuals.tile_processed[tile], images, d_images, sums, written);
  });

  const int64_t chunks = chunk_count(count);
  CameraGradient *partial = work->camera.reserve(chunks);
  executor.for_each(chunks, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk, end = begin + kChunk < count ? begin + kChunk : count;
    partial[chunk] = {};
    kernels.project_backward(view, gaussians, begin, end, residuals.splats, residuals.slot_start, sums, written,
                             d_gaussians, partial[chunk]);
  });
  d_camera = {};
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    for (int k = 0; k < 9; k++) d_camera.rotation[k] += partial[chunk].rotation[k];
    for (int k = 0; k < 3; k++) d_camera.translation[k] += partial[chunk].translation[k];
    for (int k = 0; k < 4; k++) d_camera.intrinsics[k] += partial[chunk].intrinsics[k];
  }
  background_backward(view, images.alpha, d_images.color, work->background, d_background, executor);
}

} // namespace ipsm::cpu
