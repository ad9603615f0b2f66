"""Run the emulated CUDA kernels under a sanitizer: the emulation's own examples, then the rasterizer.

usage: python run_sanitized.py address,undefined|thread   (needs g++; not zero when anything is found)
"""

import sys

from build import CSRC, HERE, SANITIZERS, missing_tool, program, run

PROGRAMS = {
    "examples": [HERE / "examples_program.cu"],
    "rasterizer": [*sorted((CSRC / "rasterizer/cuda").glob("*.cu")), HERE / "rasterizer_program.cpp"],
}


def main() -> None:
    """Build and run all programs; stop at the first finding."""
    if len(sys.argv) != 2 or sys.argv[1] not in SANITIZERS:
        raise SystemExit(f"usage: {sys.argv[0]} {'|'.join(filter(None, SANITIZERS))}")
    sanitizer = sys.argv[1]
    if reason := missing_tool(sanitizer):
        raise SystemExit(reason)
    for name, sources in PROGRAMS.items():
        result = run(program(sources, sanitizer=sanitizer))
        print(
            f"--- CUDA {name} on the host, -fsanitize={sanitizer}\n{result.stdout}{result.stderr}", end="", flush=True
        )
        if result.returncode != 0:
            raise SystemExit(f"FAILED with exit code {result.returncode}")


if __name__ == "__main__":
    main()
