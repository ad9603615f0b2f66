"""`split.json` in a scene folder: the names of the photos that train and of those that test, where the scene has such.

{"train": ["0001.jpg", ...], "test": ["0002.jpg", ...]}, as a run folder's file of the same name has them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ipsm_jax.data.errors import DataError

FILE = "split.json"
_PARTS = ("train", "test")


def read_split(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Indices of the training and the test views among `names`, rising; None if the folder has no such file.

    Raises:
      DataError: for a broken file, and for names that the scene does not have.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    expected = 'an object with two lists of names of photos, "train" and "test"'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); expected {expected}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    index = {name: i for i, name in enumerate(names)}
    found = {}
    for part in _PARTS:
        listed = content.get(part) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
            raise DataError(f"{path}: expected {expected}; {part} is no such list")
        strange = [name for name in listed if name not in index]
        if strange:
            raise DataError(
                f"{path}: there is no photo {strange[0]} ({len(strange)} of {len(listed)} of the {part} list do not "
                "exist): correct the list, or remove the file"
            )
        found[part] = tuple(sorted({index[name] for name in listed}))
    return found


def write_split(folder: Path, train: Iterable[str], test: Iterable[str]) -> None:
    """Write the file that `read_split` reads."""
    content = {"train": list(train), "test": list(test)}
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
