#pragma once

#include "xla/ffi/api/c_api.h"

// XLA FFI handlers, see cuda_handlers.cpp; same operands and results as the CPU's.
extern "C" XLA_FFI_Error *ipsm_rasterize_forward_cuda(XLA_FFI_CallFrame *frame);
extern "C" XLA_FFI_Error *ipsm_rasterize_backward_cuda(XLA_FFI_CallFrame *frame);
