"""Memory: how much batches may take, and how much they took."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

SHARE_OF_MEMORY = 0.7
"""Of what is free, which a batch may take unless told otherwise."""


def free_memory() -> int:
    """Bytes that batches may take by default: `SHARE_OF_MEMORY` of what is free of the first GPU, or of the host."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(SHARE_OF_MEMORY * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    if (available := _table("/proc/meminfo").get("MemAvailable")) is not None:
        return int(SHARE_OF_MEMORY * available)
    return int(SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


class MemoryWatch:
    """What a batch takes in addition to what was in use before it: of the first GPU, or of this process on a CPU."""

    def __init__(self) -> None:
        if jax.local_devices()[0].platform == "cpu":
            with contextlib.suppress(OSError):  # not Linux, or not allowed: the earlier peak stands
                Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now; see proc(5)
        self._start = _used_and_peak()

    def taken_mib(self) -> int | None:
        """Most so far; None where nothing tells, or as much was in use at some time before."""
        now = _used_and_peak()
        if self._start is None or now is None or now[1] <= self._start[1]:
            return None
        return (now[1] - self._start[0]) >> 20


def _used_and_peak() -> tuple[int, int] | None:
    """Bytes in use, and the most that ever were: of the first GPU, or of this process on Linux.

    The peak that `getrusage` tells would not do: a program takes over that of the one which started it.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        statistics, names = _table("/proc/self/status"), ("VmRSS", "VmHWM")
    else:
        statistics, names = device.memory_stats() or {}, ("bytes_in_use", "peak_bytes_in_use")
    used, peak = (statistics.get(name) for name in names)
    return None if used is None or peak is None else (used, peak)


def _table(path: str) -> dict[str, int]:
    """Bytes by name in a table of Linux; empty elsewhere."""
    rows = Path(path).read_text().splitlines() if Path(path).is_file() else []
    return {name: int(size.split()[0]) * 1024 for name, size in (r.split(":", 1) for r in rows if r.endswith(" kB"))}
