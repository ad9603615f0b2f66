#include "nearest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ipsm {
namespace {

constexpr int kLeafSize = 12;
constexpr int64_t kQueriesPerTask = 256;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The nearest points so far, ordered by (squared distance, index).
struct Nearest {
  double squared[kNeighbors] = {kInfinity, kInfinity, kInfinity};
  int32_t index[kNeighbors] = {INT32_MAX, INT32_MAX, INT32_MAX};

  void offer(double distance, int32_t candidate) {
    int place = kNeighbors;
    while (place > 0 &&
           (distance < squared[place - 1] || (distance == squared[place - 1] && candidate < index[place - 1])))
      place--;
    if (place == kNeighbors) return;
    for (int k = kNeighbors - 1; k > place; k--) squared[k] = squared[k - 1], index[k] = index[k - 1];
    squared[place] = distance, index[place] = candidate;
  }
};

// Left of `at` along `axis`, or there, lies the left half of a range; right of it, or there, the right half.
struct Division {
  float at;
  int axis;
};

// A balanced tree without pointers: the children of the range [begin, end) are its halves. `order_` holds the points in
// the order of the leaves.
class Tree {
public:
  Tree(const float *points, std::vector<int32_t> indices) : points_(points), order_(std::move(indices)) {
    divisions_.resize(order_.size());
    divide(0, size());
  }
  int64_t size() const { return static_cast<int64_t>(order_.size()); }
  int32_t index_at(int64_t place) const { return order_[place]; }

  // Among all points but `self`, whose position is asked about.
  Nearest search(int32_t self) const {
    Nearest nearest;
    visit(0, size(), self, nearest);
    return nearest;
  }

private:
  static int64_t middle(int64_t begin, int64_t end) { return begin + (end - begin) / 2; }
  float coordinate(int32_t index, int axis) const { return points_[3 * static_cast<int64_t>(index) + axis]; }

  void divide(int64_t begin, int64_t end) {
    if (end - begin <= kLeafSize) return;
    float low[3], high[3];
    for (int axis = 0; axis < 3; axis++) low[axis] = high[axis] = coordinate(order_[begin], axis);
    for (int64_t i = begin + 1; i < end; i++)
      for (int axis = 0; axis < 3; axis++) {
        low[axis] = std::min(low[axis], coordinate(order_[i], axis));
        high[axis] = std::max(high[axis], coordinate(order_[i], axis));
      }
    int widest = 0;
    for (int axis = 1; axis < 3; axis++)
      if (high[axis] - low[axis] > high[widest] - low[widest]) widest = axis;
    const int64_t mid = middle(begin, end);
    std::nth_element(order_.begin() + begin, order_.begin() + mid, order_.begin() + end, [&](int32_t a, int32_t b) {
      const float left = coordinate(a, widest), right = coordinate(b, widest);
      return left < right || (left == right && a < b);
    });
    divisions_[mid] = {coordinate(order_[mid], widest), widest};
    divide(begin, mid);
    divide(mid, end);
  }

  void visit(int64_t begin, int64_t end, int32_t self, Nearest &nearest) const {
    if (end - begin <= kLeafSize) {
      for (int64_t i = begin; i < end; i++) {
        if (order_[i] == self) continue;
        double squared = 0;
        for (int axis = 0; axis < 3; axis++) {
          const double step = static_cast<double>(coordinate(order_[i], axis)) - coordinate(self, axis);
          squared += step * step;
        }
        nearest.offer(squared, order_[i]);
      }
      return;
    }
    const int64_t mid = middle(begin, end);
    const Division division = divisions_[mid];
    const double beyond = static_cast<double>(coordinate(self, division.axis)) - division.at;
    const bool right_first = beyond >= 0;
    visit(right_first ? mid : begin, right_first ? end : mid, self, nearest);
    // Not strictly less: a point at the same distance with a lower index takes precedence.
    if (beyond * beyond <= nearest.squared[kNeighbors - 1])
      visit(right_first ? begin : mid, right_first ? mid : end, self, nearest);
  }

  const float *points_;
  std::vector<int32_t> order_;
  std::vector<Division> divisions_; // of the range whose middle is at this place
};

} // namespace

void nearest_neighbors(const float *points, const uint8_t *valid, const uint8_t *wanted, int64_t count,
                       float *mean_squared, int32_t *neighbors, cpu::Executor &executor) {
  std::fill(mean_squared, mean_squared + count, 0.f);
  std::fill(neighbors, neighbors + kNeighbors * count, 0);
  std::vector<int32_t> existing;
  bool any = false;
  for (int64_t i = 0; i < count; i++) {
    const float *p = points + 3 * i;
    if (!valid[i] || !std::isfinite(p[0]) || !std::isfinite(p[1]) || !std::isfinite(p[2])) continue;
    existing.push_back(static_cast<int32_t>(i));
    any |= wanted[i] != 0;
  }
  if (!any) return;
  const Tree tree(points, std::move(existing));
  // In the order of the tree, so that queries of one task walk the same branches.
  executor.for_each((tree.size() + kQueriesPerTask - 1) / kQueriesPerTask, [&](int64_t task) {
    const int64_t end = std::min(tree.size(), (task + 1) * kQueriesPerTask);
    for (int64_t place = task * kQueriesPerTask; place < end; place++) {
      const int32_t self = tree.index_at(place);
      if (!wanted[self]) continue;
      const Nearest nearest = tree.search(self);
      double total = 0;
      for (int k = 0; k < kNeighbors; k++) {
        total += nearest.squared[k];
        if (std::isfinite(nearest.squared[k]))
          neighbors[kNeighbors * static_cast<int64_t>(self) + k] = nearest.index[k];
      }
      mean_squared[self] = static_cast<float>(total / kNeighbors);
    }
  });
}

} // namespace ipsm
