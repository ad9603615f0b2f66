// The training kernels for the instruction set "avx512"; setup.py gives this file its compiler flags.
#define IPSM_KERNELS kKernelsAvx512
#include "kernels.inc"
