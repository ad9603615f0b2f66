"""`ipsm-jax COMMAND ...`, the same as `python -m ipsm_jax.COMMAND ...`."""

from __future__ import annotations

import importlib
import sys

import ipsm_jax

COMMANDS = {
    "prepare": "a folder of plain photos, or a video, to a scene with cameras",
    "train": "rebuild a scene from a few posed photos",
    "evaluate": "measure a finished run on its test views",
    "render": "new views and videos from a run or a .ply",
    "view": "look around in a run or a .ply, in a browser",
    "doctor": "what is installed, built and found on this machine",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the rest of the command line to the command's own `main`; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: ipsm-jax COMMAND [options]     (ipsm-jax COMMAND --help lists the options)\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:10} {purpose}")
        return 0
    if arguments[0] == "--version":
        print(f"ipsm_jax {ipsm_jax.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"ipsm-jax: there is no command {arguments[0]!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"ipsm_jax.{arguments[0]}")
    return int(command.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
