// Which of the instruction sets that kernels are compiled for this machine is to use.
#pragma once

namespace ipsm::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The best one that the machine has. The environment variable IPSM_JAX_SIMD (baseline, avx2, avx512) asks for a lesser
// one.
InstructionSet instruction_set();

} // namespace ipsm::cpu
