// Nearest neighbors against a search through all pairs; point sets that are empty, equal, on a grid, not finite.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "../../csrc/neighbors/nearest.h"
#include "check.h"
#include "executors.h"
#include "scenes.h"

namespace ipsm::driver {
namespace {

struct Points {
  std::string name;
  int64_t count;
  Array<float> xyz;
  Array<uint8_t> valid, wanted;
  Points(std::string name, int64_t count, const std::function<float(int64_t)> &coordinate)
      : name(std::move(name)), count(count), xyz(3 * count), valid(count), wanted(count) {
    for (int64_t i = 0; i < 3 * count; i++) xyz[i] = coordinate(i);
    for (int64_t i = 0; i < count; i++) valid[i] = i % 7 != 3, wanted[i] = i % 5 != 1;
  }
  bool exists(int64_t i) const {
    return valid[i] && std::isfinite(xyz[3 * i]) && std::isfinite(xyz[3 * i + 1]) && std::isfinite(xyz[3 * i + 2]);
  }
  double squared_distance(int64_t i, int64_t j) const {
    double total = 0;
    for (int k = 0; k < 3; k++) {
      const double step = static_cast<double>(xyz[3 * i + k]) - xyz[3 * j + k];
      total += step * step;
    }
    return total;
  }
};

struct Found {
  Array<float> mean_squared;
  Array<int32_t> neighbors;
  explicit Found(const Points &p, cpu::Executor &executor) : mean_squared(p.count), neighbors(kNeighbors * p.count) {
    for (float &x : mean_squared) x = -1;
    for (int32_t &x : neighbors) x = -1;
    nearest_neighbors(p.xyz.get(), p.valid.get(), p.wanted.get(), p.count, mean_squared.get(), neighbors.get(),
                      executor);
  }
};

void check_one(const Points &p, int64_t i, const Found &found) {
  const std::string where = p.name + ", point " + std::to_string(i);
  const int32_t *chosen = &found.neighbors[kNeighbors * i];
  std::vector<double> distances;
  if (p.wanted[i] && p.exists(i))
    for (int64_t j = 0; j < p.count; j++)
      if (j != i && p.exists(j)) distances.push_back(p.squared_distance(i, j));
  const bool asked = p.wanted[i] && p.exists(i);
  const size_t known = std::min<size_t>(distances.size(), kNeighbors);
  std::partial_sort(distances.begin(), distances.begin() + known, distances.end());
  double total = 0;
  for (size_t k = 0; k < kNeighbors; k++) {
    total += k < known ? distances[k] : std::numeric_limits<double>::infinity();
    if (!asked || k >= known) check(chosen[k] == 0, where + ": an index where there is no neighbor");
    else if (chosen[k] < 0 || chosen[k] >= p.count || chosen[k] == i || !p.exists(chosen[k]))
      check(false, where + ": neighbor " + std::to_string(chosen[k]) + " cannot be one");
    else check(p.squared_distance(i, chosen[k]) <= distances[k] * (1 + 1e-12), where + ": not the nearest");
  }
  const float mean = found.mean_squared[i], wanted = asked ? static_cast<float>(total / kNeighbors) : 0;
  check(mean == wanted || std::fabs(mean - wanted) <= 1e-6f * wanted, where + ": wrong mean of squared distances");
}

} // namespace

void check_neighbors() {
  ThreadPool one(1), four(4);
  Random random(3);
  std::vector<Points> sets;
  for (const int64_t count : {0, 1, 2, 3, 4, 5, 13, 700})
    sets.emplace_back(std::to_string(count) + " random", count, [&](int64_t) { return normal(random); });
  sets.emplace_back("all equal", 300, [](int64_t) { return 1.5f; });
  sets.emplace_back("on a line", 300, [](int64_t i) { return i % 3 ? 0.f : static_cast<float>(i / 6); });
  sets.emplace_back("on a grid", 343, [](int64_t i) {
    const int64_t point = i / 3;
    return static_cast<float>(i % 3 == 0 ? point % 7 : (i % 3 == 1 ? point / 7 % 7 : point / 49));
  });
  sets.emplace_back("random bytes", 500, [&](int64_t) { return any_float(random); });
  sets.emplace_back("far apart", 300, [&](int64_t i) { return i % 2 ? 3e38f : -3e38f * uniform(random); });
  sets.emplace_back("not a number", 50, [](int64_t) { return std::numeric_limits<float>::quiet_NaN(); });
  for (const Points &points : sets) {
    const Found found(points, one), again(points, four);
    for (int64_t i = 0; i < points.count; i++) check_one(points, i, found);
    check(std::equal(found.neighbors.begin(), found.neighbors.end(), again.neighbors.begin()) &&
              std::equal(found.mean_squared.begin(), found.mean_squared.end(), again.mean_squared.begin()),
          points.name + ": neighbors depend on threads");
  }
  std::printf("neighbors: %zu point sets\n", sets.size());
}

} // namespace ipsm::driver
