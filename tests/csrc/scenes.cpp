#include "scenes.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace ipsm::driver {
namespace {

constexpr int64_t kCount = 150;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

void behind_camera(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) s.means[3 * i + 2] -= 8;
}

void around_camera(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) s.means[3 * i + 2] = 2 * (s.means[3 * i + 2] - 4);
}

void off_screen(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) s.means[3 * i + i % 2] += i % 4 < 2 ? 300.f : -300.f;
}

void huge(Scene &s, Random &) {
  for (float &x : s.log_scales) x += 9;
}

void needles(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) {
    s.log_scales[3 * i] = 3;
    s.log_scales[3 * i + 1] = s.log_scales[3 * i + 2] = -25;
  }
}

void in_one_tile(Scene &s, Random &random) {
  for (int64_t i = 0; i < s.count; i++) {
    for (int k = 0; k < 2; k++) s.means[3 * i + k] = 0.001f * normal(random);
    for (int k = 0; k < 3; k++) s.log_scales[3 * i + k] = -7;
  }
}

void one_covers_all(Scene &s, Random &) {
  for (int k = 0; k < 3; k++) s.means[k] = k == 2 ? 1.f : 0.f, s.log_scales[k] = 6;
  s.opacity_logits[0] = 20;
}

void opaque(Scene &s, Random &) {
  for (float &x : s.opacity_logits) x = 30;
}

void barely_visible(Scene &s, Random &random) {
  for (float &x : s.opacity_logits) x = std::log(1 / 254.f) + 1e-3f * normal(random);
}

void equal_depths(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) s.means[3 * i + 2] = i % 3 ? 4.f : 5.f;
}

void half_dead(Scene &s, Random &) {
  for (int64_t i = 0; i < s.count; i++) s.alive[i] = i % 2;
}

// Every number beyond what it can sensibly be, one operand after the other in different Gaussians.
template <typename Value> void sprinkle(Scene &s, const Value &value) {
  int every = 5;
  for (Array<float> *operand : s.operands()) {
    if (operand->size() < static_cast<size_t>(s.count)) continue; // the camera has scenes of its own
    for (size_t i = every; i < operand->size(); i += 13 + every) (*operand)[i] = value();
    every++;
  }
  s.sane = false;
}

void with_nan(Scene &s, Random &) {
  sprinkle(s, [] { return kNan; });
}
void with_infinity(Scene &s, Random &) {
  float next = kInf;
  sprinkle(s, [&] { return next = -next; });
}
void with_large(Scene &s, Random &) {
  float next = 3e38f;
  sprinkle(s, [&] { return next = -next; });
}
void with_denormal(Scene &s, Random &) {
  sprinkle(s, [] { return 1e-40f; });
}
void with_random_bytes(Scene &s, Random &random) {
  sprinkle(s, [&] { return any_float(random); });
}

void all_nan(Scene &s, Random &) {
  for (Array<float> *operand : s.operands())
    for (float &x : *operand) x = kNan;
  s.sane = false;
}

void all_random_bytes(Scene &s, Random &random) {
  for (Array<float> *operand : s.operands())
    for (float &x : *operand) x = any_float(random);
  s.sane = false;
}

// Random means and shapes that are visible often, under a camera of random bytes.
void random_camera(Scene &s, Random &random) {
  s.camera_from_world[random() % 12] = any_float(random);
  s.intrinsics[random() % 4] = any_float(random);
  s.sane = false;
}

void zero_focal_length(Scene &s, Random &) {
  s.intrinsics[0] = 0;
  s.sane = false;
}
void infinite_focal_length(Scene &s, Random &) {
  s.intrinsics[1] = kInf;
  s.sane = false;
}
void far_principal_point(Scene &s, Random &) {
  s.intrinsics[2] = 1e30f, s.intrinsics[3] = -1e30f;
  s.sane = false;
}
void nan_background(Scene &s, Random &) {
  s.background[1] = kNan;
  s.sane = false;
}

// Screen positions that are exact multiples of half a tile, seen from (0, 0, 0) along z.
void on_tile_edges(Scene &s, Random &random) {
  for (float &x : s.camera_from_world) x = 0;
  for (int k = 0; k < 4; k++) s.camera_from_world[5 * k] = 1;
  s.intrinsics[2] = s.intrinsics[3] = 0.5f;
  for (int64_t i = 0; i < s.count; i++) {
    s.means[3 * i] = s.means[3 * i + 1] = 0;
    for (int k = 0; k < 2; k++) s.offset[2 * i + k] = 8.f * static_cast<int>(random() % 20) - 16;
  }
}

} // namespace

Scene::Scene(int width, int height, int64_t count, int rest)
    : width(width), height(height), count(count), rest(rest), degree(3), means(3 * count), log_scales(3 * count),
      quaternions(4 * count), opacity_logits(count), sh_dc(3 * count), sh_rest(3 * count * rest), offset(2 * count),
      features(kMostChannels * count), alive(count), camera_from_world(16), intrinsics(4), background(3) {}

std::vector<Array<float> *> Scene::operands() {
  return {&means,  &log_scales, &quaternions,       &opacity_logits, &sh_dc,     &sh_rest,
          &offset, &features,   &camera_from_world, &intrinsics,     &background};
}

float uniform(Random &random) { return static_cast<float>(random() >> 8) / (1 << 24); }

float normal(Random &random) {
  const float radius = std::sqrt(-2 * std::log(1 - uniform(random)));
  return radius * std::cos(6.2831853f * uniform(random));
}

float any_float(Random &random) {
  const uint32_t bits = random();
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

Scene random_scene(unsigned seed, int width, int height, int64_t count) {
  Random random(seed);
  Scene s(width, height, count, 15);
  const float focal = 1.2f * (width > height ? width : height);
  for (int64_t i = 0; i < count; i++) {
    s.alive[i] = 1;
    s.opacity_logits[i] = 1.5f * normal(random);
    for (int k = 0; k < 3; k++) {
      s.means[3 * i + k] = (k == 2 ? 4 : 0) + 0.8f * normal(random);
      s.log_scales[3 * i + k] = -2 + 0.5f * normal(random);
    }
  }
  for (Array<float> *operand : {&s.quaternions, &s.sh_dc, &s.sh_rest, &s.offset, &s.features})
    for (float &x : *operand) x = normal(random);
  // turned a little about y, stepped aside
  const float matrix[16] = {0.99f, 0, -0.141f, 0.5f, 0, 1, 0, -0.1f, 0.141f, 0, 0.99f, 0.3f, 0, 0, 0, 1};
  for (int k = 0; k < 16; k++) s.camera_from_world[k] = matrix[k];
  s.intrinsics[0] = focal, s.intrinsics[1] = 1.05f * focal;
  s.intrinsics[2] = 0.5f * width + 0.3f, s.intrinsics[3] = 0.5f * height - 0.4f;
  for (int k = 0; k < 3; k++) s.background[k] = uniform(random);
  return s;
}

std::vector<Scene> all_scenes(unsigned seed, int width, int height) {
  const std::pair<const char *, void (*)(Scene &, Random &)> kinds[] = {
      {"random", [](Scene &, Random &) {}},
      {"behind the camera", behind_camera},
      {"around the camera", around_camera},
      {"off screen", off_screen},
      {"huge", huge},
      {"needles", needles},
      {"in one tile", in_one_tile},
      {"one covers all", one_covers_all},
      {"opaque", opaque},
      {"barely visible", barely_visible},
      {"equal depths", equal_depths},
      {"half dead", half_dead},
      {"on tile edges", on_tile_edges},
      {"NaN here and there", with_nan},
      {"infinity here and there", with_infinity},
      {"3e38 here and there", with_large},
      {"denormals here and there", with_denormal},
      {"random bytes here and there", with_random_bytes},
      {"all NaN", all_nan},
      {"all random bytes", all_random_bytes},
      {"random bytes in the camera", random_camera},
      {"focal length 0", zero_focal_length},
      {"infinite focal length", infinite_focal_length},
      {"principal point far away", far_principal_point},
      {"NaN background", nan_background},
  };
  std::vector<Scene> scenes;
  for (const auto &[name, change] : kinds) {
    Random random(seed++);
    Scene scene = random_scene(seed, width, height, kCount);
    change(scene, random);
    scene.degree = static_cast<int>(seed % 4);
    scene.name = std::string(name) + ", " + std::to_string(width) + " x " + std::to_string(height);
    scenes.push_back(std::move(scene));
  }
  for (const int rest : {0, 8}) { // no Gaussians; fewer harmonics than the degree asks for
    Scene few(width, height, rest == 0 ? 0 : 20, rest);
    const Scene full = random_scene(seed, width, height, 20);
    for (int64_t i = 0; i < few.count; i++) {
      few.alive[i] = 1;
      for (int k = 0; k < 3; k++) few.means[3 * i + k] = full.means[3 * i + k], few.log_scales[3 * i + k] = -2;
      for (int k = 0; k < 4; k++) few.quaternions[4 * i + k] = full.quaternions[4 * i + k];
      for (int k = 0; k < 3 * rest; k++) few.sh_rest[3 * rest * i + k] = full.sh_rest[45 * i + k];
    }
    for (int k = 0; k < 16; k++) few.camera_from_world[k] = full.camera_from_world[k];
    for (int k = 0; k < 4; k++) few.intrinsics[k] = full.intrinsics[k];
    few.name = few.count ? "8 harmonics" : "no Gaussians";
    scenes.push_back(std::move(few));
  }
  return scenes;
}

} // namespace ipsm::driver
