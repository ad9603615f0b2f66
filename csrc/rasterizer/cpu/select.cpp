#include <cstdlib>
#include <cstring>

#include "instruction_set.h"
#include "kernels.h"

namespace ipsm::cpu {
namespace {

InstructionSet detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // What -march=x86-64-v3 and -v4 allow the compiler to use.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const char *asked = std::getenv("IPSM_JAX_SIMD");
  const bool baseline_only = asked && !std::strcmp(asked, "baseline"), avx2_only = asked && !std::strcmp(asked, "avx2");
  if (avx512 && !baseline_only && !avx2_only) return InstructionSet::kAvx512;
  if (avx2 && !baseline_only) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kBaseline;
}

} // namespace

InstructionSet instruction_set() {
  static const InstructionSet set = detect();
  return set;
}

const Kernels &select_kernels() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512) return kKernelsAvx512;
  if (instruction_set() == InstructionSet::kAvx2) return kKernelsAvx2;
#endif
  return kKernelsBaseline;
}

} // namespace ipsm::cpu
