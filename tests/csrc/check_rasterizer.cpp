// The rasterizer on every scene in every mode: results do not depend on threads, on the room for pairs or on what was
// in memory before, and keep to their range.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "check.h"
#include "executors.h"
#include "frame.h"

namespace ipsm::driver {
namespace {

constexpr int64_t kAmple = 1 << 16, kTiny = 3; // room for pairs

void check_range(const Scene &scene, const Mode &mode, const Result &result) {
  const std::string where = scene.name + ", " + describe(mode) + ": ";
  for (const auto &[name, values] : result.floats) {
    if (name == "alpha")
      check(std::all_of(values.begin(), values.end(), [](float a) { return a >= 0 && a <= 1.0001f; }),
            where + "alpha outside [0, 1]");
    if (scene.sane)
      check(std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }),
            where + name + " is not finite");
  }
  const std::vector<int32_t> &radii = result.integers.front().second;
  check(std::all_of(radii.begin(), radii.end(), [](int32_t r) { return r >= 0; }), where + "a negative radius");
  check(result.pairs <= kAmple, where + "more pairs than this driver has room for");
  check(result.residuals_untouched, where + "the backward pass wrote to its inputs");
}

// One thread and ample room against four threads, no room and other bytes in memory.
int check_scene(const Scene &scene, const Mode &mode, cpu::Executor &one, cpu::Executor &four) {
  const Result expected = run(scene, mode, kAmple, 0xff, 7, one), found = run(scene, mode, kTiny, 0x5a, 7, four);
  check_range(scene, mode, expected);
  const std::string differs = difference(expected, found);
  check(differs.empty(), scene.name + ", " + describe(mode) + ": " + differs +
                             " depends on threads, room for pairs or what was in memory");
  check(found.residuals_untouched, scene.name + ": the backward pass wrote to its inputs when it sorted again");
  return 2;
}

void check_everything_seen(const Result &result) {
  const std::vector<int32_t> &radii = result.integers.front().second;
  const auto visible = std::count_if(radii.begin(), radii.end(), [](int32_t r) { return r > 0; });
  check(visible > 4096, "fewer than 4096 Gaussians visible: the sort is not cut into slices");
}

// Several threads of the caller's, each in calls of its own, with one pool.
void check_calls_at_once(cpu::Executor &four) {
  const int callers = 3;
  std::vector<Scene> scenes;
  std::vector<Result> expected;
  for (int k = 0; k < callers; k++) {
    scenes.push_back(random_scene(100 + k, 40 + 9 * k, 50 - 7 * k, 1200 * k + 300));
    expected.push_back(run(scenes[k], mode_number(9 * k), kAmple, 0, 7, four));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int k = 0; k < callers; k++)
    threads.emplace_back([&, k] {
      for (int repeat = 0; repeat < 3; repeat++) {
        const Result found = run(scenes[k], mode_number(9 * k), repeat == 1 ? kTiny : kAmple, 0x5a, 7, four);
        if (!difference(expected[k], found).empty()) wrong++;
      }
    });
  for (std::thread &thread : threads) thread.join();
  check(wrong == 0, "calls at the same time disturb each other");
}

} // namespace

void check_rasterizer() {
  ThreadPool one(1), four(4);
  const int sizes[][2] = {{64, 48}, {1, 1}, {17, 33}, {130, 5}};
  int runs = 0, number = 0;
  for (const auto &[width, height] : sizes)
    for (const Scene &scene : all_scenes(number, width, height)) {
      const bool all_modes = width == 17 && (scene.name[0] == 'r' || scene.name[0] == 'n');
      // otherwise four modes each, other ones for the next scene
      for (int k = 0; k < (all_modes ? 32 : 4); k++)
        runs += check_scene(scene, mode_number(all_modes ? k : (number + 7 * k) % 32), one, four);
      number++;
    }
  Scene many = random_scene(5, 70, 60, 6000);
  for (float &x : many.log_scales) x -= 2;
  for (float &x : many.opacity_logits) x += 3;
  for (int64_t i = 0; i < many.count; i++)
    for (int k = 0; k < 2; k++) many.means[3 * i + k] *= 0.7f;
  runs += check_scene(many, mode_number(0), one, four);
  const Result expected = run(many, mode_number(2), kAmple, 0, 7, one);
  check_everything_seen(expected);
  StingyExecutor stingy(four);
  check(difference(expected, run(many, mode_number(2), kAmple, 0, 7, stingy)).empty(),
        "the result depends on whether tasks can be spawned");
  {
    LateExecutor late;
    check(difference(expected, run(many, mode_number(2), kAmple, 0, 7, late)).empty(),
          "the result depends on when tasks begin");
  }
  check_calls_at_once(four);
  std::printf("rasterizer: %d runs, each forward and backward\n", runs);
}

} // namespace ipsm::driver
