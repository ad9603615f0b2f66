"""A fingerprint of the C++ sources, so that a compiled library that no longer fits them is noticed.

Standard library only: setup.py runs this file before anything is installed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def source_hash(csrc: Path) -> str:
    """Sixteen hexadecimal digits that depend on the names and contents of all files below `csrc`."""
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cpp", ".inc", ".cu", ".cuh")):
        digest.update(path.relative_to(csrc).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
