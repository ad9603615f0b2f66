// What the driver's checks report to: a failure is counted and printed, the rest goes on.
#pragma once

#include <cstdio>
#include <string>

namespace ipsm::driver {

inline int &failures() {
  static int count = 0;
  return count;
}

// Only from the main thread.
inline void check(bool holds, const std::string &what) {
  if (holds) return;
  failures()++;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// Each prints a line about what it ran.
void check_executors();
void check_rasterizer();
void check_neighbors();
void check_training();

} // namespace ipsm::driver
