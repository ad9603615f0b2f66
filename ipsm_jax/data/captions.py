"""Captions of scenes: the text that a diffusion prior is conditioned by, from a file.

Three kinds of files are understood, UTF-8, blank lines ignored:

- one line, the caption;
- the published ``blip_rst.txt``, one in each scene's folder, which holds one line
  ``random select IMAGE blip result:CAPTION``;
- one line per scene, ``SCENE: CAPTION``; the separator may also be a tab, ``=`` or ``|``.

So a single line that begins with one word and a separator is taken for a scene's: a caption of that form would have to
be written without them.
"""

from __future__ import annotations

import re
from pathlib import Path

from ipsm_jax.data.errors import DataError

_PUBLISHED = re.compile(r"random select .*? blip result:(?P<caption>.*)")
_OF_SCENE = re.compile(r"(?P<scene>[^\s:=|]+)\s*[:=|\t](?P<caption>.*)")


def read_caption(path: Path, scene_name: str) -> str:
    """The caption of a scene.

    Args:
      path: a file, see the module's docstring.
      scene_name: as in the file; upper and lower case are the same.

    Raises:
      DataError: if the file cannot be read or holds no caption of this scene; names the scenes that it has.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{path} is not readable as a file of captions: {reason}") from error
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no caption: it is empty")
    if len(lines) == 1:
        if published := _PUBLISHED.fullmatch(lines[0]):
            return _caption(published["caption"], path, 'what follows "blip result:"')
        if not _OF_SCENE.fullmatch(lines[0]):
            return lines[0]
    return _caption_of_scene(lines, path, scene_name)


def _caption_of_scene(lines: list[str], path: Path, scene_name: str) -> str:
    captions: dict[str, str] = {}
    for line in lines:
        match = _OF_SCENE.fullmatch(line)
        if match is None:
            raise DataError(
                f"{path} has {len(lines)} lines, so each must be SCENE: CAPTION; this one is not: {line[:80]!r}"
            )
        scene = match["scene"].casefold()
        if scene in captions:
            raise DataError(f"{path} has two captions of the scene {match['scene']}")
        captions[scene] = match["caption"]
    if scene_name.casefold() not in captions:
        hint = " (a caption alone must not begin with a word and one of : = |)" if len(lines) == 1 else ""
        raise DataError(f"{path} has no caption of the scene {scene_name}; it has {', '.join(captions)}{hint}")
    return _caption(captions[scene_name.casefold()], path, f"the caption of {scene_name}")


def _caption(text: str, path: Path, what: str) -> str:
    if not text.strip():
        raise DataError(f"{path}: {what} is empty")
    return text.strip()
