// The CPU kernels for the instruction set "baseline"; setup.py gives this file its compiler flags.
#define IPSM_KERNELS kKernelsBaseline
#define IPSM_KERNELS_NAME "baseline"
#include "kernels.inc"
