// The CUDA rasterizer on random Gaussians, forward and backward, in a program of its own: sanitizers want to be there
// from the start. Says how many pixels and gradients were written, and fails when any of them is not finite.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/rasterizer/cuda/rasterizer.h"

namespace {

using namespace ipsm;

// Blocks that end where they are used up, so that a step too far is noticed.
class Heap : public cuda::Scratch {
public:
  void *allocate(size_t bytes) override {
    blocks_.push_back(std::make_unique<std::vector<char>>(bytes, char{0x7f}));
    return blocks_.back()->data();
  }
  template <typename T> T *array(int64_t count) { return static_cast<T *>(allocate(count * sizeof(T))); }

private:
  std::vector<std::unique_ptr<std::vector<char>>> blocks_;
};

struct Random {
  bool wild;
  std::mt19937 bits{1};
  std::normal_distribution<float> normal;
  float *numbers(Heap &heap, int64_t count, float mean, float spread) {
    float *values = heap.array<float>(count);
    for (int64_t i = 0; i < count; i++) {
      const auto any = static_cast<uint32_t>(bits());
      if (wild) std::memcpy(values + i, &any, sizeof any);
      else values[i] = mean + spread * normal(bits);
    }
    return values;
  }
};

// An operand with one batch axis of `items` times `size` elements.
template <typename T> cuda::Strided<const T> batched(const T *data, int64_t size) { return {data, {0, 0, 0, size}}; }
template <typename T> cuda::Strided<const T> shared(const T *data) { return {data, {}}; }

bool all_finite(const char *name, const float *values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(values[i])) {
      std::fprintf(stderr, "%s[%lld] is %g\n", name, static_cast<long long>(i), static_cast<double>(values[i]));
      return false;
    }
  return true;
}

// `room` for pairs, an item; 0 means enough. `wild`: any bytes as numbers.
bool run(int count, int width, int height, int channels, bool everything, int64_t room, bool wild = false) {
  constexpr int kItems = 2, kRest = 15;
  Heap heap;
  Random random{wild};
  cuda::Call call = {};
  call.batch = {kItems, {1, 1, 1, kItems}};
  call.width = width, call.height = height, call.channels = channels, call.count = count, call.rest = kRest;
  call.antialiased = call.absolute_gradients = everything;
  call.footprint = everything ? Footprint::kThreeSigma : Footprint::kExact;
  const int64_t pixels = static_cast<int64_t>(width) * height, tiles = call.tiles();
  call.capacity = room ? room : count * tiles;
  float *means = random.numbers(heap, 3 * count, 0, 1);
  for (int i = 0; i < count; i++) means[3 * i + 2] += 4;
  call.means = shared<float>(means), call.log_scales = shared<float>(random.numbers(heap, 3 * count, -1.5f, 0.8f));
  call.quaternions = shared<float>(random.numbers(heap, 4 * count, 0, 1));
  call.opacity_logits = shared<float>(random.numbers(heap, count, 0, 2));
  call.sh_dc = shared<float>(random.numbers(heap, 3 * count, 0, 1));
  call.sh_rest = shared<float>(random.numbers(heap, 3 * kRest * count, 0, 0.2f));
  uint8_t *alive = heap.array<uint8_t>(count);
  for (int i = 0; i < count; i++) alive[i] = i % 7 != 3;
  call.alive = shared<uint8_t>(alive), call.offset = shared<float>(random.numbers(heap, 2 * count, 0, 0.3f));
  float *poses = heap.array<float>(16 * kItems), *intrinsics = heap.array<float>(4);
  for (int k = 0; k < 16 * kItems; k++) poses[k] = k % 16 % 5 == 0; // the identity
  poses[16 + 3] = 0.2f;
  intrinsics[0] = intrinsics[1] = static_cast<float>(width);
  intrinsics[2] = 0.5f * static_cast<float>(width), intrinsics[3] = 0.5f * static_cast<float>(height);
  call.camera_from_world = batched<float>(poses, 16), call.intrinsics = shared<float>(intrinsics);
  call.background = shared<float>(random.numbers(heap, 3, 0.5f, 0.1f));
  call.features = shared<float>(random.numbers(heap, static_cast<int64_t>(count) * channels, 0, 1));
  int32_t *degree = heap.array<int32_t>(1);
  *degree = 3, call.degree = shared<int32_t>(degree);

  cuda::Forward out = {};
  out.color = heap.array<float>(3 * pixels * kItems), out.depth = heap.array<float>(pixels * kItems);
  out.alpha = heap.array<float>(pixels * kItems), out.features = heap.array<float>(pixels * channels * kItems);
  out.radii = heap.array<int32_t>(count * kItems), out.pair_count = heap.array<int32_t>(kItems);
  out.splats = heap.array<Splat>(count * kItems), out.slot_start = heap.array<int32_t>((count + 1) * kItems);
  out.tile_start = heap.array<int32_t>((tiles + 1) * kItems), out.tile_processed = heap.array<int32_t>(tiles * kItems);
  out.pairs = heap.array<Pair>(call.capacity * kItems);
  cuda::forward(call, out, heap, nullptr);

  const auto image = [&](int64_t size) { return batched<float>(random.numbers(heap, size * kItems, 0, 1), size); };
  const cuda::Backward in = {batched<float>(out.color, 3 * pixels),
                             batched<float>(out.depth, pixels),
                             batched<float>(out.alpha, pixels),
                             batched<float>(out.features, channels * pixels),
                             batched<Splat>(out.splats, count),
                             batched<int32_t>(out.slot_start, count + 1),
                             batched<int32_t>(out.tile_start, tiles + 1),
                             batched<int32_t>(out.tile_processed, tiles),
                             batched<Pair>(out.pairs, call.capacity),
                             image(3 * pixels),
                             image(pixels),
                             image(pixels),
                             image(channels * pixels)};
  const int64_t sizes[] = {3 * count,
                           3 * count,
                           4 * count,
                           count,
                           3 * count,
                           3 * kRest * count,
                           2 * count,
                           16,
                           4,
                           3,
                           static_cast<int64_t>(channels) * count,
                           2 * count};
  std::vector<float *> g;
  for (int64_t size : sizes) g.push_back(heap.array<float>(size * kItems));
  const cuda::Gradients gradients = {g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11]};
  cuda::backward(call, in, gradients, heap, nullptr);

  std::printf("%d Gaussians, %d x %d: %d pairs\n", count, width, height, out.pair_count[0]);
  if (wild) return all_finite("alpha", out.alpha, pixels * kItems);
  if (room) return out.pair_count[0] > room && std::isnan(out.color[0]) && std::isnan(g[0][0]);
  bool fine = all_finite("color", out.color, 3 * pixels * kItems) && all_finite("depth", out.depth, pixels * kItems) &&
              all_finite("features", out.features, pixels * channels * kItems);
  for (size_t k = 0; k < g.size(); k++) fine &= all_finite("gradient", g[k], sizes[k] * kItems);
  return fine && out.pair_count[0] > count / 4;
}

} // namespace

int main() {
  const bool fine = run(300, 45, 37, 3, false, 0) && run(300, 45, 37, 9, true, 0) && run(40, 21, 530, 0, false, 0) &&
                    run(100, 45, 37, 2, false, 20) && run(2000, 45, 37, 2, false, 0, true);
  return fine ? EXIT_SUCCESS : EXIT_FAILURE;
}
