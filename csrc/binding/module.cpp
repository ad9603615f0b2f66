// The Python module ipsm_jax._native: hands the XLA handlers to Python as capsules and tells what was built.
#include <pybind11/pybind11.h>

#include "../rasterizer/config.h"
#include "../rasterizer/cpu/kernels.h"
#include "cpu_handlers.h"
#ifdef IPSM_CUDA_ARCHITECTURES
#include "cuda_handlers.h"
#endif

namespace py = pybind11;

namespace {

py::capsule capsule(void *handler) { return py::capsule(handler, "xla._CUSTOM_CALL_TARGET"); }

} // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native rasterizer kernels behind XLA FFI handlers; use them through ipsm_jax.rasterizer.";
  m.attr("ffi_api_version") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.attr("source_hash") = IPSM_SOURCE_HASH;
  m.attr("tile_size") = ipsm::kTileSize;
  m.attr("splat_floats") = ipsm::kSplatFloats;
  m.def(
      "simd_level", [] { return ipsm::cpu::select_kernels().name; },
      "Instruction set in use: baseline, avx2 or avx512.");
  m.def(
      "cpu_handlers",
      [] {
        py::dict handlers;
        handlers["ipsm_rasterize_forward"] = capsule(reinterpret_cast<void *>(ipsm_rasterize_forward_cpu));
        handlers["ipsm_rasterize_backward"] = capsule(reinterpret_cast<void *>(ipsm_rasterize_backward_cpu));
        handlers["ipsm_nearest_neighbors"] = capsule(reinterpret_cast<void *>(ipsm_nearest_neighbors_cpu));
        handlers["ipsm_photometric"] = capsule(reinterpret_cast<void *>(ipsm_photometric_cpu));
        handlers["ipsm_adam"] = capsule(reinterpret_cast<void *>(ipsm_adam_cpu));
        return handlers;
      },
      "XLA FFI handlers for the CPU, by target name.");
#ifdef IPSM_CUDA_ARCHITECTURES
  m.attr("cuda_architectures") = IPSM_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_architectures") = "";
#endif
  m.def(
      "cuda_handlers",
      [] {
        py::dict handlers;
#ifdef IPSM_CUDA_ARCHITECTURES
        handlers["ipsm_rasterize_forward"] = capsule(reinterpret_cast<void *>(ipsm_rasterize_forward_cuda));
        handlers["ipsm_rasterize_backward"] = capsule(reinterpret_cast<void *>(ipsm_rasterize_backward_cuda));
#endif
        return handlers;
      },
      "XLA FFI handlers for NVIDIA GPUs, by target name; none when built without CUDA.");
}
