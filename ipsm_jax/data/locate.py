"""From what the person calls a scene to its folder, and from a folder to its layout."""

from __future__ import annotations

import os
from pathlib import Path

from ipsm_jax.data import colmap, llff, transforms
from ipsm_jax.data.errors import DataError

# Folders that collections of scenes are usually unpacked into.
COLLECTIONS = (
    "", "llff", "nerf_llff_data", "LLFF", "llff/nerf_llff_data", "colmap", "nerfstudio", "dtu", "DTU", "rs_dtu_4/DTU",
    "mipnerf360", "360_v2", "tandt", "tanks_and_temples", "nerf_synthetic",
)  # fmt: skip
LAYOUTS = """The layouts that are understood:
  LLFF        SCENE/poses_bounds.npy with SCENE/images/ or SCENE/images_8/
  COLMAP      SCENE/sparse/0/{cameras,images,points3D}.{bin,txt} with SCENE/images/
  nerfstudio  SCENE/transforms.json (or transforms_train.json and transforms_test.json) with the pictures it lists"""
LLFF_HELP = """The LLFF scenes (fern, flower, fortress, horns, leaves, orchids, room, trex) are in nerf_llff_data.zip,
in the Google Drive folder that the NeRF authors link from https://www.matthewtancik.com/nerf. Nothing is downloaded by
itself: unpack it and pass --data-root FOLDER, set IPSM_JAX_DATA=FOLDER, or put it into ./data."""


def detect_layout(folder: Path) -> str | None:
    """Name of the layout: "transforms", "colmap" or "llff"; None if the folder holds no scene.

    A complete COLMAP model wins over poses_bounds.npy (METHOD section 1); transforms.json wins over both.
    """
    if not folder.is_dir():
        return None
    if any((folder / name).is_file() for name in (transforms.FILE, *transforms.SPLIT_FILES.values())):
        return "transforms"
    if colmap.model_folder(folder)[0] is not None:
        return "colmap"
    if (folder / llff.FILE).is_file():
        return "llff"
    return None


def data_roots(data_root: Path | None) -> list[tuple[str, Path]]:
    """Where scenes are looked for, in order, each with what to call it."""
    roots = [("--data-root", Path(data_root).expanduser())] if data_root is not None else []
    if os.environ.get("IPSM_JAX_DATA"):
        roots.append(("$IPSM_JAX_DATA", Path(os.environ["IPSM_JAX_DATA"]).expanduser()))
    return [*roots, ("./data", Path("data"))]


def find_scene(scene: str, data_root: Path | None = None) -> Path:
    """The folder of a scene.

    Args:
      scene: "demo" for the built-in scene, a path, or a name to look for under the roots and their usual sub-folders.
      data_root: the first place to look in.

    Raises:
      DataError: if it is not found; says where it looked, what layouts are understood, and how to get LLFF.
    """
    if scene == "demo":
        from ipsm_jax.data.synthetic import demo_scene_path

        return demo_scene_path()
    if not scene.strip() or "\0" in scene:
        raise DataError(f"no scene is named: {scene!r}; give a name, a folder, or demo")
    direct = Path(scene).expanduser()
    if direct.is_file() and direct.name in (transforms.FILE, llff.FILE):
        direct = direct.parent
    candidates = [direct]
    if not direct.is_absolute():
        candidates += [root / sub / scene for _, root in data_roots(data_root) for sub in COLLECTIONS]
    for folder in candidates:
        if detect_layout(folder):
            return folder
    raise DataError(_not_found(scene, direct, candidates, data_root))


def _not_found(scene: str, direct: Path, candidates: list[Path], data_root: Path | None) -> str:
    lines = [f"Scene {scene!r} was not found."]
    empty = [folder for folder in candidates if folder.is_dir()]
    if empty:
        inside = sorted(path.name for path in empty[0].iterdir())[:8]
        lines[0] = f"{empty[0]} holds no scene in a known layout (inside: {', '.join(inside) or 'nothing'})."
        remark = colmap.model_folder(empty[0])[1]
        if remark:
            lines.append(f"Note: {remark}.")
    lines.append(f"Looked for the folder {direct.absolute()}")
    if not direct.is_absolute():
        sub_folders = ", ".join(sub for sub in COLLECTIONS if sub)
        for label, root in data_roots(data_root):
            state = "" if root.is_dir() else " (no such folder)"
            lines.append(f"and for {scene} in {label} = {root.absolute()}{state}, directly or in {sub_folders}")
            sub_folders = "the same sub-folders"
        if data_root is None:
            lines.append(
                "(--data-root is not given"
                + ("" if os.environ.get("IPSM_JAX_DATA") else ", $IPSM_JAX_DATA not set")
                + ")"
            )
    return "\n".join([*lines, LAYOUTS, LLFF_HELP, "Or use --scene demo, the built-in scene, which needs no data."])
