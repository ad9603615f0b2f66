"""Whose picture is drawn next: several people look at once, and one machine draws for all of them.

While somebody moves, pictures are small and follow; once they rest, one large picture is drawn. Whoever has waited
longest is served first. Time is given, not read, so that all of this is a function of what was told.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from ipsm_jax.viewer.stage import Wishes
from ipsm_jax.viewer.viewpoint import Viewpoint

REST = 0.3
"""Seconds without a change after which somebody rests."""


class Job(NamedTuple):
    """A picture to draw.

    Attributes:
      client: for whom.
      viewpoint, wishes: from where, and of what.
      still: whether they rest, so that it may take long.
      version: what this picture answers; for `Schedule.done`.
    """

    client: int
    viewpoint: Viewpoint
    wishes: Wishes
    still: bool
    version: int


@dataclasses.dataclass
class _Client:
    """What one of those who look wants and has. Versions count changes; -1 is nothing yet."""

    wishes: Wishes = dataclasses.field(default_factory=Wishes)
    viewpoint: Viewpoint | None = None
    changed: float = -math.inf
    version: int = 0
    drawn: int = -1  # version of the last picture of any size
    finished: int = -1  # version of the last large picture
    served: float = -math.inf


class Schedule:
    """Who looks from where, and what they have been shown. Not safe for threads: whoever shares it brings a lock."""

    def __init__(self) -> None:
        self._clients: dict[int, _Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def look(self, client: int, viewpoint: Viewpoint, now: float) -> None:
        """Somebody, perhaps new, looks from there; where no picture is possible (a hidden window) they are left out."""
        entry = self._clients.setdefault(client, _Client())
        if entry.viewpoint != viewpoint:
            entry.viewpoint = viewpoint
            self._change(entry, now)

    def want(self, client: int, wishes: Wishes, now: float) -> None:
        """Somebody, perhaps new, wants to see something else."""
        entry = self._clients.setdefault(client, _Client())
        if entry.wishes != wishes:
            entry.wishes = wishes
            self._change(entry, now)

    def wishes(self, client: int) -> Wishes:
        """What somebody wants to see."""
        return self._clients[client].wishes if client in self._clients else Wishes()

    def leave(self, client: int) -> None:
        """Somebody is gone; it does not matter if they never came."""
        self._clients.pop(client, None)

    def refresh(self) -> None:
        """What is shown has changed: everybody needs a new picture, and nobody has moved."""
        for entry in self._clients.values():
            entry.version += 1

    def next(self, now: float) -> Job | None:
        """The most urgent picture, or None if there is nothing to draw yet."""
        waiting = []
        for client, entry in self._clients.items():
            still = now >= entry.changed + REST
            due = entry.finished < entry.version if still else entry.drawn < entry.version
            if due and entry.viewpoint is not None and entry.viewpoint.usable:
                waiting.append((entry.served, client, still))
        if not waiting:
            return None
        _, client, still = min(waiting)
        entry = self._clients[client]
        assert entry.viewpoint is not None
        return Job(client, entry.viewpoint, entry.wishes, still, entry.version)

    def done(self, job: Job, now: float) -> bool:
        """A picture was drawn; returns whether the one it is for is still there."""
        entry = self._clients.get(job.client)
        if entry is None:
            return False
        entry.served = now
        entry.drawn = max(entry.drawn, job.version)
        if job.still:
            entry.finished = max(entry.finished, job.version)
        return True

    def wait(self, now: float) -> float | None:
        """Seconds until somebody rests who needs a large picture then; None: nothing to do before the next change."""
        rests = [
            entry.changed + REST - now
            for entry in self._clients.values()
            if entry.finished < entry.version and entry.viewpoint is not None and entry.viewpoint.usable
        ]
        return max(0.0, min(rests)) if rests else None

    @staticmethod
    def _change(entry: _Client, now: float) -> None:
        entry.version += 1
        entry.changed = now
