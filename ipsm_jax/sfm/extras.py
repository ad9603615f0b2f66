"""What a posed scene has beside photos, masks and cameras, kept in the prepared one: split, exact depth, caption.

split.json         the source's own lists of training and test views
depths/            exact depth maps, where the photos stayed as they are (depth must not be averaged across edges)
blip_rst.txt       the caption
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ipsm_jax.data.captions import read_caption
from ipsm_jax.data.capture import Capture
from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import view_names
from ipsm_jax.data.split_file import read_split, write_split
from ipsm_jax.sfm.scene_folder import Written
from ipsm_jax.sfm.sources import Source

CAPTION = "blip_rst.txt"


def keep_extras(
    capture: Capture, sources: Sequence[Source], numbers: Sequence[int], written: Written, folder: Path
) -> tuple[str, ...]:
    """Write what the capture has beside its photos into the scene's folder; sentences about it.

    Args:
      capture: with poses.
      sources: the photos of it that were written.
      numbers: which photo of the capture each source is.
      written: where they are now.
      folder: of the scene.

    Raises:
      DataError: for a broken split.json.
    """
    names = view_names(capture.photos)
    now = {numbers[source]: name for name, source in zip(written.names, written.order, strict=True)}
    return (
        *_keep_split(capture, names, now, folder),
        *_keep_depths(capture, sources, [names[i] for i in numbers], written, folder),
        *_keep_caption(capture, folder),
    )


def _keep_split(capture: Capture, names: Sequence[str], now: dict[int, str], folder: Path) -> tuple[str, ...]:
    listed = capture.listed or read_split(capture.path, names)
    parts = {part: [now[i] for i in (listed or {}).get(part, ()) if i in now] for part in ("train", "test")}
    if not (parts["train"] and parts["test"]):
        return ()
    write_split(folder, parts["train"], parts["test"])
    return (
        f"the scene's own split, {len(parts['train'])} training and {len(parts['test'])} test views, is kept in "
        "split.json",
    )


def _keep_depths(
    capture: Capture, sources: Sequence[Source], names: Sequence[str], written: Written, folder: Path
) -> tuple[str, ...]:
    source_folder = capture.path / "depths"
    if not source_folder.is_dir():
        return ()
    if any(not source.photo.lens.ideal or source.cropped for source in sources):
        return ("depths/ is not kept: photos were undistorted or cropped, and exact depth cannot be",)
    files = [source_folder / f"{Path(names[i]).stem}.npy" for i in written.order]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        return (f"depths/ is not kept: it has no {missing[0]}",)
    (folder / "depths").mkdir()
    for file, name in zip(files, written.names, strict=True):
        shutil.copyfile(file, folder / "depths" / f"{Path(name).stem}.npy")
    return (f"{len(files)} exact depth maps are kept in depths/",)


def _keep_caption(capture: Capture, folder: Path) -> tuple[str, ...]:
    """The caption in the published form, which does not depend on the folder's name."""
    path = capture.path / CAPTION
    if not path.is_file():
        return ()
    try:
        caption = read_caption(path, capture.path.resolve().name)
    except DataError as error:
        return (f"the caption is not kept: {error}",)
    (folder / CAPTION).write_text(f"random select photo blip result:{caption}\n", encoding="utf-8")
    return (f"the caption is kept in {CAPTION}",)
