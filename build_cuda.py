"""The CUDA part of the build: finds nvcc, chooses architectures, compiles the kernels. Used by setup.py.

Environment variables:
  IPSM_JAX_CUDA        1: build the CUDA kernels, 0: do not, auto (default): when nvcc is found
  IPSM_JAX_CUDA_ARCHS  compute capabilities without the dot, such as "80;90"; default: those of the GPUs in this
                       machine, or the usual ones when there is none
  CUDA_HOME            the toolkit to use; default: the nvcc on the PATH, then /usr/local/cuda
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

USUAL_ARCHITECTURES = (80, 86, 89, 90, 120)  # A100; RTX 30; RTX 40, L4; H100, H200; RTX 50
SOURCES = Path("csrc/rasterizer/cuda")
FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
SWITCH_OFF = "Set IPSM_JAX_CUDA=0 to build for CPUs alone."


class CudaBuildError(RuntimeError):
    """The CUDA kernels were wanted and cannot be built; the message says why and what to do."""


class Toolkit(NamedTuple):
    """An installed CUDA toolkit."""

    nvcc: str
    include_dirs: list[str]
    library_dirs: list[str]
    architectures: list[int]  # that nvcc can compile for


def find_nvcc() -> str | None:
    """Path of nvcc: in $CUDA_HOME or $CUDA_PATH, on the PATH, or in /usr/local/cuda."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home and (Path(home) / "bin/nvcc").is_file():
            return str(Path(home) / "bin/nvcc")
    default = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(default) if default.is_file() else None)


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as e:
        raise CudaBuildError(f"{command[0]} cannot be run: {e.strerror}. {SWITCH_OFF}") from e
    except subprocess.CalledProcessError as e:
        raise CudaBuildError(f"{' '.join(command)} failed:\n{(e.stderr or e.stdout)[-3000:]}\n{SWITCH_OFF}") from e


def inspect_toolkit(nvcc: str) -> Toolkit:
    """Ask nvcc itself where its headers and libraries are; it may be a script far from them."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cu"
        probe.touch()
        command = [nvcc, "--dryrun", "-c", str(probe), "-o", str(probe.with_suffix(".o"))]
        found = subprocess.run(command, capture_output=True, text=True)
    text = found.stdout + found.stderr

    def folders(variable: str, flag: str) -> list[str]:
        words = [word for line in re.findall(rf"#\$ {variable}=(.*)", text) for word in shlex.split(line)]
        return [os.path.normpath(word.removeprefix(flag)) for word in words if word != flag]

    includes = [*folders("INCLUDES", "-I"), *folders("SYSTEM_INCLUDES", "-isystem")]
    includes = [path for path in includes if path != "/usr/include"]  # g++ knows it, and minds its place in the order
    libraries = folders("LIBRARIES", "-L")
    if found.returncode or not libraries:
        raise CudaBuildError(f"{nvcc} does not tell where its headers are:\n{text[-2000:]}\n{SWITCH_OFF}")
    listed = re.findall(r"compute_(\d+)\b", _run([nvcc, "--list-gpu-arch"]))
    return Toolkit(nvcc, includes, libraries, sorted(map(int, listed)))


def visible_architectures() -> list[int]:
    """Compute capabilities of the GPUs in this machine, as nvidia-smi tells them; none without a driver."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if found.returncode:
        return []
    return sorted({int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d+)\s*$", found.stdout, re.MULTILINE)})


def choose_architectures(asked: str, visible: list[int], supported: list[int]) -> list[int]:
    """What to compile for.

    Raises:
      CudaBuildError: `asked` is no list of numbers, or names what this nvcc cannot compile for.
    """
    words = re.split(r"[;,\s]+", asked.strip()) if asked.strip() else []
    known = ", ".join(map(str, supported))
    for word in words:
        if not word.isdigit():
            raise CudaBuildError(f'IPSM_JAX_CUDA_ARCHS="{asked}": "{word}" is no number such as 90. {SWITCH_OFF}')
        if int(word) not in supported:
            raise CudaBuildError(f'IPSM_JAX_CUDA_ARCHS="{asked}": this nvcc knows {known}, not {word}. {SWITCH_OFF}')
    if words:
        return sorted({int(word) for word in words})
    if visible and all(v in supported for v in visible):
        return visible
    usual = [a for a in USUAL_ARCHITECTURES if a in supported]
    if not usual:
        raise CudaBuildError(f"this nvcc compiles for {known} only; CUDA 12 or newer is needed. {SWITCH_OFF}")
    return usual


def code_flags(architectures: list[int]) -> list[str]:
    """Flags for nvcc: machine code for each, and for later GPUs an intermediate form of the newest."""
    newest = architectures[-1]
    return [
        *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures),
        f"-gencode=arch=compute_{newest},code=compute_{newest}",
    ]


def compile_kernels(toolkit: Toolkit, architectures: list[int], folder: Path) -> list[str]:
    """Compile all kernels into object files in `folder`, several at a time.

    Raises:
      CudaBuildError: with the end of what nvcc said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The toolkit's sort takes longest: it goes first, and nvcc compiles for several architectures at once.
    sources = sorted(SOURCES.glob("*.cu"), key=lambda path: (path.name != "device_algorithms.cu", path.name))
    flags = [*FLAGS, *code_flags(architectures), f"--threads={min(cores, len(architectures) + 1)}"]

    def compile_one(source: Path) -> str:
        compiled = folder / f"{source.stem}_cuda.o"
        _run([toolkit.nvcc, *flags, "-c", str(source), "-o", str(compiled)])
        return str(compiled)

    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(compile_one, sources))


def plan() -> tuple[Toolkit, list[int]] | None:
    """What the environment asks for: the toolkit and the architectures, or None for a build without CUDA.

    Raises:
      CudaBuildError: it asks for what cannot be done.
    """
    wanted = os.environ.get("IPSM_JAX_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise CudaBuildError(f'IPSM_JAX_CUDA="{wanted}" is none of 0, 1, auto')
    if wanted == "0":
        return None
    nvcc = find_nvcc()
    if nvcc is None:
        if wanted == "1":
            raise CudaBuildError(
                "IPSM_JAX_CUDA=1, but there is no nvcc in $CUDA_HOME/bin, on the PATH or in /usr/local/cuda/bin. "
                f"Install the CUDA toolkit (12 or 13), or set CUDA_HOME to where it is. {SWITCH_OFF}"
            )
        return None
    toolkit = inspect_toolkit(nvcc)
    asked = os.environ.get("IPSM_JAX_CUDA_ARCHS", "")
    return toolkit, choose_architectures(asked, visible_architectures(), toolkit.architectures)
