"""Builds ipsm_jax._native with g++ or clang alone. Everything else about the package is in pyproject.toml."""

import os
import platform
import runpy
from pathlib import Path

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


class BuildWithFlagsPerFile(build_ext):
    """setuptools has one set of flags per extension; the kernels need one per file."""

    def build_extension(self, ext):
        """Compile each source with its own flags, then link as usual."""
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, suffix, cc_args, extra_postargs, pp_opts):
            flags = [*extra_postargs, *KERNEL_FLAGS.get(Path(src).name, [])]
            return compile_one(obj, src, suffix, cc_args, flags, pp_opts)

        self.compiler._compile = compile_with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one


source_hash = runpy.run_path("ipsm_jax/_source_hash.py")["source_hash"](CSRC)
extra = os.environ.get("IPSM_JAX_CXXFLAGS", "").split()  # for sanitizers and profiling
native = Pybind11Extension(
    "ipsm_jax._native",
    sources=sorted(str(path) for path in SOURCES),
    depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in CSRC.rglob(pattern)),
    define_macros=[("IPSM_SOURCE_HASH", f'"{source_hash}"')],
    extra_compile_args=[*COMMON, "-isystem", jax.ffi.include_dir(), *extra],
    extra_link_args=extra,
)

setup(ext_modules=[native], cmdclass={"build_ext": BuildWithFlagsPerFile})
