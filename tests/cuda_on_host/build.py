"""Compile CUDA sources for the CPU: against cuda_on_host.h, with g++, into a shared library or a program.

Results are kept in a folder for temporary files and found again by everything they were made from, so that a test
session, or several at a time, compiles each source once.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
EMULATION = [HERE / name for name in ("block.cpp", "synchronize.cpp", "fiber.cpp")]
LAYOUT = HERE / "shared_memory.ld"
HEADERS = ("*.h", "*.cuh", "*.inc")

# nvcc does not warn about comparisons of signed with unsigned numbers, and `#pragma unroll` is CUDA's.
FLAGS = ["-std=c++17", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-sign-compare"]
FLAGS += ["-Wno-unknown-pragmas", "-fdata-sections", "-DIPSM_CUDA_ON_HOST", f"-I{HERE}"]
CHECKED = ["-O1", "-D_GLIBCXX_ASSERTIONS"]
# The emulation itself stays without: it tells the sanitizers what it does with stacks and threads.
SANITIZERS = {
    "": ([], []),
    "address,undefined": (
        ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", *CHECKED],
        ["-DCUDA_ON_HOST_ADDRESS"],
    ),
    "thread": (["-fsanitize=thread", *CHECKED], ["-DCUDA_ON_HOST_THREAD"]),
}


class CompileError(RuntimeError):
    """What the compiler or linker had to say."""


def shared_library(sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    """Library of `sources` (.cu or .cpp) and the emulation, for ctypes."""
    return _link(sources, flags, "", ["-shared"], ".so")


def program(sources: Sequence[Path], flags: Sequence[str] = (), sanitizer: str = "") -> Path:
    """Program of `sources`, one of which has a main, and the emulation. `sanitizer`: a key of SANITIZERS."""
    return _link(sources, flags, sanitizer, [], "")


def run(made: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program and keep what it prints. Not zero when it fails or its sanitizer finds something."""
    command = [str(made), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if "ThreadSanitizer: unexpected memory mapping" in result.stderr:  # addresses are more random than it can bear
        result = subprocess.run(["setarch", "-R", *command], capture_output=True, text=True)
    return result


def missing_tool(sanitizer: str = "") -> str | None:
    """Why this machine cannot build, as a reason to skip a test; None when it can."""
    if sys.platform != "linux":
        return "the emulation's stack switch is written for Linux"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    return None if not sanitizer or _can_link(sanitizer) else f"g++ has no -fsanitize={sanitizer} here"


@functools.cache
def _can_link(sanitizer: str) -> bool:
    command = ["g++", *SANITIZERS[sanitizer][0], "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input="int main() {}", capture_output=True, text=True).returncode == 0


def _link(sources: Sequence[Path], flags: Sequence[str], sanitizer: str, mode: list[str], suffix: str) -> Path:
    of_kernels, of_emulation = SANITIZERS[sanitizer]
    jobs = [(Path(source).resolve(), (*FLAGS, *of_kernels, *flags)) for source in sources]
    jobs += [(source, (*FLAGS, *of_emulation, *flags)) for source in EMULATION]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    command = ["g++", *mode, *of_kernels, *map(str, objects), f"-Wl,-T,{LAYOUT}"]
    # The objects are named by what they were made from.
    name = hashlib.sha256(" ".join(command).encode() + LAYOUT.read_bytes()).hexdigest()[:20]
    return _made_once(name + suffix, command)


def _compile(source: Path, flags: tuple[str, ...]) -> Path:
    digest = hashlib.sha256(repr((source, flags, _compiler())).encode())
    folders = dict.fromkeys([HERE, source.parent, CSRC])
    for path in [source, *(p for folder in folders for pattern in HEADERS for p in sorted(folder.rglob(pattern)))]:
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return _made_once(digest.hexdigest()[:20] + source.suffix + ".o", ["g++", *flags, "-x", "c++", "-c", str(source)])


@functools.cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout


def _made_once(name: str, command: list[str]) -> Path:
    """The file `name` in the cache, made by `command` if it is not there. A file there is always complete."""
    made = _cache() / name
    with _locked(made.with_name(name + ".lock")):
        if not made.exists():
            unfinished = made.with_name(name + ".unfinished")
            result = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
            if result.returncode != 0:
                raise CompileError(f"{' '.join(command)}\n{result.stderr}")
            unfinished.rename(made)
    return made


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"ipsm_jax-cuda-on-host-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
