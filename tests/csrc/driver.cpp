// Runs the framework-free CPU kernels under a sanitizer; see .ci/sanitize. Exit code 1 when a check fails, 77 when the
// machine lacks the instruction set that IPSM_JAX_SIMD asks for.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../../csrc/rasterizer/cpu/kernels.h"
#include "check.h"
#include "executors.h"

namespace ipsm::driver {

void check_executors() {
  ThreadPool four(4);
  for (int repeat = 0; repeat < 50; repeat++) {
    std::atomic<int64_t> total{0};
    int64_t seen[100] = {};
    four.for_each(100, [&](int64_t i) { seen[i]++, total += i; });
    check(total == 4950, "work was left out or done twice");
    for (int64_t count : seen) check(count == 1, "a piece of work was not done exactly once");
    bool caught = false;
    std::atomic<int> done{0};
    try {
      four.for_each(20, [&](int64_t i) {
        if (i % 5 == 3) throw std::runtime_error("thrown on purpose");
        done++;
      });
    } catch (const std::runtime_error &) {
      caught = true;
    }
    check(caught && done == 16, "an exception was lost, or other work with it");
  }
  std::printf("executor: 50 rounds\n");
}

} // namespace ipsm::driver

int main() {
  using namespace ipsm::driver;
  const char *asked = std::getenv("IPSM_JAX_SIMD"), *level = ipsm::cpu::select_kernels().name;
  if (asked && std::strcmp(asked, level) != 0) {
    std::printf("this machine lacks %s\n", asked);
    return 77;
  }
  std::printf("instruction set %s\n", level);
  check_executors();
  check_neighbors();
  check_training();
  check_rasterizer();
  if (failures()) std::printf("%d checks failed\n", failures());
  return failures() ? 1 : 0;
}
