"""The newest checkpoint of a run folder that is being trained, whenever there is a new one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ipsm_jax.training.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from ipsm_jax.training.state import TrainState

POLL_SECONDS = 1.0


class Follower:
    """Looks into a run folder, whose files come and go while it does, and reads each newest checkpoint once.

    A file that cannot be read (it was removed just now, or is being copied) is tried again when it has changed; until
    then what was read before is the newest there is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[str, int, int] | None = None

    def poll(self) -> TrainState | None:
        """The state in the newest checkpoint, or None if it was read before, cannot be read, or there is none."""
        try:
            path = next(reversed(list_checkpoints(self.folder).values()), None)
            if path is None:
                return None
            status = path.stat()
        except OSError:  # removed between the look and the second look
            return None
        mark = (path.name, status.st_mtime_ns, status.st_size)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            return load_checkpoint(path)[1]
        except CheckpointError:
            return None


def follow(follower: Follower, show: Callable[[TrainState], None], stop: threading.Event) -> None:
    """Poll once a second and show what is new, until told to stop; runs in a thread of its own."""
    while not stop.wait(POLL_SECONDS):
        state = follower.poll()
        if state is not None:
            show(state)


def wait_for_checkpoint(folder: Path, say: Callable[[str], None]) -> None:
    """Return when a run folder that exists holds a checkpoint; the person is told once that this may take a while."""
    told, pause = False, threading.Event()
    while folder.is_dir() and not list_checkpoints(folder):
        if not told:
            say(f"waiting for the first checkpoint in {folder} (Ctrl-C ends)")
            told = True
        pause.wait(POLL_SECONDS)
