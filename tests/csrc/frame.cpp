#include "frame.h"

#include <cstring>

#include "../../csrc/rasterizer/cpu/rasterizer.h"

namespace ipsm::driver {
namespace {

template <typename T> Array<T> filled(size_t size, unsigned char fill) {
  Array<T> array(size);
  if (size) std::memset(static_cast<void *>(array.get()), fill, size * sizeof(T));
  return array;
}

template <typename T> bool same_bytes(const T *a, const T *b, size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(T)) == 0;
}

template <typename List> std::string first_difference(const List &a, const List &b) {
  for (size_t i = 0; i < a.size(); i++)
    if (a[i].second.size() != b[i].second.size() ||
        !same_bytes(a[i].second.data(), b[i].second.data(), a[i].second.size()))
      return a[i].first;
  return "";
}

struct ImageMemory {
  Array<float> color, depth, alpha, features;
  ImageMemory(const Scene &s, int channels, unsigned char fill)
      : color(filled<float>(3 * s.width * s.height, fill)), depth(filled<float>(s.width * s.height, fill)),
        alpha(filled<float>(s.width * s.height, fill)),
        features(filled<float>(static_cast<size_t>(channels) * s.width * s.height, fill)) {}
  std::vector<const Array<float> *> all() const { return {&color, &depth, &alpha, &features}; }
};

struct ListMemory {
  Array<Splat> splats;
  Array<int32_t> slot_start, tile_start, tile_processed;
  Array<Pair> pairs;
  ListMemory(int64_t count, int64_t tiles, int64_t capacity, unsigned char fill)
      : splats(filled<Splat>(count, fill)), slot_start(filled<int32_t>(count + 1, fill)),
        tile_start(filled<int32_t>(tiles + 1, fill)), tile_processed(filled<int32_t>(tiles, fill)),
        pairs(filled<Pair>(capacity, fill)) {}
  cpu::Residuals residuals() const {
    return {splats.get(),         slot_start.get(), tile_start.get(),
            tile_processed.get(), pairs.get(),      static_cast<int64_t>(pairs.size())};
  }
};

bool same_lists(const ListMemory &a, const ListMemory &b) {
  return same_bytes(a.splats.get(), b.splats.get(), a.splats.size()) &&
         same_bytes(a.slot_start.get(), b.slot_start.get(), a.slot_start.size()) &&
         same_bytes(a.tile_start.get(), b.tile_start.get(), a.tile_start.size()) &&
         same_bytes(a.tile_processed.get(), b.tile_processed.get(), a.tile_processed.size()) &&
         same_bytes(a.pairs.get(), b.pairs.get(), a.pairs.size());
}

} // namespace

Mode mode_number(int number) {
  constexpr int kChannels[] = {0, 1, 5, 33};
  return {kChannels[number % 4], number / 4 % 2 ? Footprint::kThreeSigma : Footprint::kExact, number / 8 % 2 != 0,
          number / 16 % 2 != 0};
}

std::string describe(const Mode &mode) {
  return std::to_string(mode.channels) + " channels" + (mode.footprint == Footprint::kExact ? "" : ", 3 sigma") +
         (mode.antialiased ? ", antialiased" : "") + (mode.absolute_gradients ? ", absolute gradients" : "");
}

Result run(const Scene &s, const Mode &mode, int64_t capacity, unsigned char fill, unsigned seed,
           cpu::Executor &executor) {
  const int channels = mode.channels;
  const View view = {s.camera_from_world.get(),
                     s.intrinsics.get(),
                     s.background.get(),
                     s.width,
                     s.height,
                     s.degree,
                     mode.footprint,
                     mode.antialiased,
                     mode.absolute_gradients,
                     channels};
  // Features beyond the channels in use are taken away, so that what is read beyond would be seen.
  const Array<float> features(static_cast<size_t>(channels) * s.count);
  for (size_t i = 0; i < features.size(); i++) features[i] = s.features[i];
  const GaussianInputs inputs = {
      s.means.get(),   s.log_scales.get(), s.quaternions.get(), s.opacity_logits.get(), s.sh_dc.get(),
      s.sh_rest.get(), s.alive.get(),      s.offset.get(),      features.get(),         s.rest};

  const ImageMemory images(s, channels, fill);
  const ListMemory lists(s.count, cpu::tile_count(s.width, s.height), capacity, fill);
  const Array<int32_t> radii = filled<int32_t>(s.count, fill);
  cpu::forward(view, inputs, s.count,
               {images.color.get(), images.depth.get(), images.alpha.get(), images.features.get()}, radii.get(),
               lists.residuals(), executor);
  const ListMemory before = lists;

  const ImageMemory d_images(s, channels, 0);
  Random random(seed);
  for (const Array<float> *image : d_images.all())
    for (float &x : *image) x = normal(random);
  const Array<float> d_means = filled<float>(3 * s.count, fill), d_log_scales = filled<float>(3 * s.count, fill),
                     d_quaternions = filled<float>(4 * s.count, fill), d_logits = filled<float>(s.count, fill),
                     d_dc = filled<float>(3 * s.count, fill), d_rest = filled<float>(3 * s.count * s.rest, fill),
                     d_offset = filled<float>(2 * s.count, fill),
                     d_features = filled<float>(static_cast<size_t>(channels) * s.count, fill),
                     d_absolute = filled<float>(2 * s.count, fill), d_background = filled<float>(3, fill);
  CameraGradient d_camera;
  std::memset(&d_camera, fill, sizeof d_camera);
  cpu::backward(
      view, inputs, s.count, {images.color.get(), images.depth.get(), images.alpha.get(), images.features.get()},
      {d_images.color.get(), d_images.depth.get(), d_images.alpha.get(), d_images.features.get()}, lists.residuals(),
      {d_means.get(), d_log_scales.get(), d_quaternions.get(), d_logits.get(), d_dc.get(), d_rest.get(), d_offset.get(),
       d_features.get(), d_absolute.get()},
      d_camera, d_background.get(), executor);

  Result result;
  const auto keep = [&](const char *name, const Array<float> &a) {
    result.floats.push_back({name, std::vector<float>(a.begin(), a.end())});
  };
  keep("color", images.color), keep("depth", images.depth), keep("alpha", images.alpha);
  keep("feature image", images.features);
  keep("d_means", d_means), keep("d_log_scales", d_log_scales), keep("d_quaternions", d_quaternions);
  keep("d_opacity_logits", d_logits), keep("d_sh_dc", d_dc), keep("d_sh_rest", d_rest), keep("d_offset", d_offset);
  keep("d_features", d_features), keep("d_absolute", d_absolute), keep("d_background", d_background);
  std::vector<float> camera;
  for (double x : d_camera.rotation) camera.push_back(static_cast<float>(x));
  for (double x : d_camera.translation) camera.push_back(static_cast<float>(x));
  for (double x : d_camera.intrinsics) camera.push_back(static_cast<float>(x));
  result.floats.push_back({"d_camera", camera});
  for (const auto &[name, array] : {std::pair<const char *, const Array<int32_t> *>{"radii", &radii},
                                    {"slot_start", &lists.slot_start},
                                    {"tile_start", &lists.tile_start},
                                    {"tile_processed", &lists.tile_processed}})
    result.integers.push_back({name, std::vector<int32_t>(array->begin(), array->end())});
  result.pairs = lists.slot_start[s.count];
  result.residuals_untouched = same_lists(before, lists);
  return result;
}

std::string difference(const Result &a, const Result &b) {
  const std::string found = first_difference(a.floats, b.floats);
  return found.empty() ? first_difference(a.integers, b.integers) : found;
}

} // namespace ipsm::driver
