"""Rules of the C++ sources that no compiler enforces. They need the sources, a compiler and `nm`."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("folder", ["rasterizer/cpu", "training"])
@pytest.mark.parametrize("level", FLAGS)
def test_kernels_share_no_function_with_other_instruction_sets(level, folder, tmp_path):
    """A weak symbol compiled for AVX-512 could be the one that the linker keeps for all machines."""
    need("g++", "nm")
    if level != "baseline" and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("x86-64 only")
    compiled = tmp_path / "kernels.o"
    source = CSRC / folder / f"kernels_{level}.cpp"
    result = subprocess.run(
        ["g++", "-std=c++17", "-O1", *FLAGS[level], "-c", source, "-o", compiled], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = subprocess.run(["nm", "-C", compiled], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = [line.split(maxsplit=2)[-2:] for line in lines]
    shared = [name for kind, name in symbols if kind in "WVuwv" or (kind == "T")]
    assert shared == []
    assert any("kKernels" in name for _, name in symbols)


def test_the_shared_maths_compiles_as_cuda(tmp_path):
    """The same header is to serve the CUDA kernels: no standard library, host and device functions only."""
    need("nvcc")
    source = tmp_path / "probe.cu"
    source.write_text(
        f'#include "{CSRC}/rasterizer/splat_math.h"\n'
        "__global__ void probe(const float *in, float *out) {\n"
        "  const ipsm::CameraParams camera = ipsm::make_camera(in, in + 16, 64, 48);\n"
        "  ipsm::Shape shape; float basis[16];\n"
        "  if (!ipsm::project_shape(camera, in + 20, in + 23, in + 26, shape)) return;\n"
        "  ipsm::harmonics(3, in[0], in[1], in[2], basis);\n"
        "  out[0] = shape.cov_xx + basis[15];\n"
        "}\n"
    )
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-c", str(source), "-o", str(tmp_path / "probe.o")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
