"""One reader, one damaged file, what came of it. The same seed and number give the same damage."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from random import Random
from typing import NamedTuple

from mutations import mutate
from readers import Reader

VALID_EVERY = 20
"""One input of so many is left as it is: a reader that refuses everything must not pass."""


class Damage(NamedTuple):
    """What is done to a file: which one, its new content, and what that is called."""

    path: Path
    data: bytes
    name: str


class Outcome(NamedTuple):
    """What a reader made of an input: "accepted", "refused" or "fault", and for the latter what is wrong."""

    kind: str
    damage: str
    detail: str = ""


class Bench:
    """Valid files of a reader in a folder, damaged one at a time.

    Args:
      reader: whose.
      folder: empty.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self.valid = {path: path.read_bytes() for path in reader.make(folder)}
        self._written: set[Path] = set()

    def damage(self, seed: int, number: int) -> Damage:
        """The damage of an input by its number."""
        rng = Random(f"{self.reader.name} {seed} {number}")
        path = rng.choice(list(self.valid))
        if number % VALID_EVERY == 0:
            return Damage(path, self.valid[path], "none")
        name, data = mutate(rng, self.valid[path])
        return Damage(path, data, "none" if data == self.valid[path] else name)

    def trial(self, seed: int, number: int) -> Outcome:
        """Read an input."""
        return self.read(self.damage(seed, number))

    def read(self, damage: Damage) -> Outcome:
        """Read the files with one of them damaged."""
        for path in self.valid:  # all of them: a reader may have changed some, as the log of a run
            if path != damage.path:
                path.write_bytes(self.valid[path]) if self._changed(path) else None
        damage.path.write_bytes(damage.data)
        self._written = {damage.path}
        name = f"{damage.path.name}: {damage.name}"
        try:
            with warnings.catch_warnings(action="ignore"):
                self.reader.read(self.folder)
        except self.reader.errors as error:
            if damage.name == "none":
                return Outcome("fault", name, f"refuses a valid file: {error}")
            return (
                Outcome("refused", name)
                if self._named(str(error), damage.path)
                else Outcome(
                    "fault", name, f"the message does not say which file, or cannot be read: {str(error)[:3000]}"
                )
            )
        except Exception:
            return Outcome("fault", name, traceback.format_exc(limit=-6))
        return Outcome("accepted", name)

    def _changed(self, path: Path) -> bool:
        return path in self._written or not path.is_file() or path.read_bytes() != self.valid[path]

    def _named(self, message: str, path: Path) -> bool:
        """Whether a message names a file, or a folder that it is in, and can be read."""
        folders = [folder.name for folder in path.parents if folder == self.folder or self.folder in folder.parents]
        readable = all(c.isprintable() or c == "\n" for c in message) and max(map(len, message.split())) < 500
        return readable and len(message) < 10_000 and any(name in message for name in (path.name, *folders))
