#pragma once

#include "xla/ffi/api/c_api.h"

// XLA FFI handlers, see cpu_handlers.cpp, neighbor_handlers.cpp and training_handlers.cpp for operands and
// results.
extern "C" XLA_FFI_Error *ipsm_rasterize_forward_cpu(XLA_FFI_CallFrame *frame);
extern "C" XLA_FFI_Error *ipsm_rasterize_backward_cpu(XLA_FFI_CallFrame *frame);
extern "C" XLA_FFI_Error *ipsm_nearest_neighbors_cpu(XLA_FFI_CallFrame *frame);
extern "C" XLA_FFI_Error *ipsm_photometric_cpu(XLA_FFI_CallFrame *frame);
extern "C" XLA_FFI_Error *ipsm_adam_cpu(XLA_FFI_CallFrame *frame);
