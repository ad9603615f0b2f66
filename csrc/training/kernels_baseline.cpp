// The training kernels for the instruction set "baseline"; setup.py gives this file its compiler flags.
#define IPSM_KERNELS kKernelsBaseline
#include "kernels.inc"
