// The training kernels for the instruction set "avx2"; setup.py gives this file its compiler flags.
#define IPSM_KERNELS kKernelsAvx2
#include "kernels.inc"
