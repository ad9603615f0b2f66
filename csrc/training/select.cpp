#include "../rasterizer/cpu/instruction_set.h"
#include "kernels.h"

namespace ipsm::training {

const Kernels &select_kernels() {
#if defined(__x86_64__)
  switch (cpu::instruction_set()) {
  case cpu::InstructionSet::kAvx512:
    return kKernelsAvx512;
  case cpu::InstructionSet::kAvx2:
    return kKernelsAvx2;
  case cpu::InstructionSet::kBaseline:
    break;
  }
#endif
  return kKernelsBaseline;
}

} // namespace ipsm::training
