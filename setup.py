"""Builds ipsm_jax._native with g++ or clang, and its CUDA kernels with nvcc where there is one (see build_cuda.py).

Everything else about the package is in pyproject.toml.
"""

import os
import platform
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax.ffi
from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")

# No -ffast-math: it folds away the rounding that exp2 relies on, and NaN tests.
COMMON = ["-O3", "-std=c++17", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Some versions of GCC warn about their own intrinsics' undefined values.
KERNELS = ["-fno-math-errno", "-fno-trapping-math", "-Wno-maybe-uninitialized"]

# The same kernels once per instruction set; which one runs is decided at run time.
KERNEL_FLAGS = {"kernels_baseline.cpp": KERNELS}
if ON_X86:
    KERNEL_FLAGS["kernels_avx2.cpp"] = [*KERNELS, "-march=x86-64-v3"]
    KERNEL_FLAGS["kernels_avx512.cpp"] = [*KERNELS, "-march=x86-64-v4", "-mprefer-vector-width=512"]

SOURCES = [
    *(CSRC / "rasterizer/cpu" / name for name in ("binning.cpp", "rasterizer.cpp", "select.cpp", "workspace.cpp")),
    *(CSRC / "rasterizer/cpu" / name for name in KERNEL_FLAGS),
    *(CSRC / "binding" / name for name in ("cpu_handlers.cpp", "module.cpp", "neighbor_handlers.cpp")),
    CSRC / "neighbors/nearest.cpp",
    *(CSRC / "training" / name for name in ("adam.cpp", "photometric.cpp", "select.cpp", *KERNEL_FLAGS)),
    CSRC / "binding/training_handlers.cpp",
]


# Not imported: an isolated build does not have this folder on its path.
build_cuda = SimpleNamespace(**runpy.run_path("build_cuda.py"))


class BuildWithFlagsPerFile(build_ext):
    """setuptools has one set of flags per extension; the kernels need one per file, and some need nvcc."""

    def build_extension(self, ext):
        """Compile each source with its own flags, then link as usual."""
        try:
            self.add_cuda(ext)
        except build_cuda.CudaBuildError as e:
            raise SystemExit(f"\nipsm_jax: the CUDA kernels cannot be built. {e}\n") from e
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, suffix, cc_args, extra_postargs, pp_opts):
            flags = [*extra_postargs, *KERNEL_FLAGS.get(Path(src).name, [])]
            return compile_one(obj, src, suffix, cc_args, flags, pp_opts)

        self.compiler._compile = compile_with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one

    def add_cuda(self, ext):
        """Compile the CUDA kernels, if they are wanted, and add them to the extension."""
        plan = build_cuda.plan()
        if plan is None:
            print("ipsm_jax: building without CUDA kernels")
            return
        toolkit, architectures = plan
        names = " ".join(f"sm_{a}" for a in architectures)
        print(f"ipsm_jax: building CUDA kernels for {names} with {toolkit.nvcc}")
        ext.extra_objects = build_cuda.compile_kernels(toolkit, architectures, Path(self.build_temp) / "cuda")
        ext.sources = [*ext.sources, str(CSRC / "binding/cuda_handlers.cpp")]
        ext.define_macros = [*ext.define_macros, ("IPSM_CUDA_ARCHITECTURES", f'"{names}"')]
        ext.extra_compile_args = [*ext.extra_compile_args, *(f"-isystem{path}" for path in toolkit.include_dirs)]
        # The runtime is part of the module, which therefore imports on machines without CUDA.
        ext.library_dirs = [*ext.library_dirs, *toolkit.library_dirs]
        ext.libraries = [*ext.libraries, "cudart_static", "dl", "rt", "pthread"]


source_hash = runpy.run_path("ipsm_jax/_source_hash.py")["source_hash"](CSRC)
extra = os.environ.get("IPSM_JAX_CXXFLAGS", "").split()  # for sanitizers and profiling
native = Pybind11Extension(
    "ipsm_jax._native",
    sources=sorted(str(path) for path in SOURCES),
    depends=sorted(str(path) for pattern in ("*.h", "*.inc", "*.cu", "*.cuh") for path in CSRC.rglob(pattern)),
    define_macros=[("IPSM_SOURCE_HASH", f'"{source_hash}"')],
    extra_compile_args=[*COMMON, "-isystem", jax.ffi.include_dir(), *extra],
    extra_link_args=extra,
)

setup(ext_modules=[native], cmdclass={"build_ext": BuildWithFlagsPerFile})
