"""The table of the stereo's accuracy, made from a scene whose depths are known in closed form."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textured_planes import FOCAL, HEIGHT, WIDTH, Plane, camera_batch, in_a_row, render

from ipsm_jax.data.load import load_scene
from ipsm_jax.data.synthetic.folder import poses_bounds


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("stereo")


@pytest.fixture
def plane(tmp_path):
    """Five views of a slanted plane as a folder in LLFF's layout; views 1 and 4 of them train."""
    cameras = camera_batch(in_a_row(5, baseline=0.2))
    images, depths = render(cameras, Plane(normal=(0.2, 0.1, 1.0)))
    folder = tmp_path / "plane"
    (folder / "images").mkdir(parents=True)
    (folder / "depths").mkdir()
    for i, (image, depth) in enumerate(zip(images, depths, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        np.save(folder / "depths" / f"{i}.npy", depth.astype(np.float32))
    bounds = np.tile([2.0, 9.0], (5, 1))
    np.save(folder / "poses_bounds.npy", poses_bounds(cameras.camera_from_world, WIDTH, HEIGHT, FOCAL, bounds))
    return folder


def test_figures_of_a_scene_become_a_file_pictures_and_a_row(experiment, plane, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["stereo.py", "--here", "--scenes", f"{plane}:1", "--views", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    experiment.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((out / "plane-96x72-2.json").read_text())
    assert figures["references"] == 2 * WIDTH * HEIGHT
    assert figures["complete_references"] == pytest.approx(figures["complete_pixels"])
    assert figures["median"] < 0.003 and figures["within_3_percent"] > 0.98 and figures["complete_pixels"] > 0.6
    assert figures["cold"]["seconds"] > figures["warm"]["seconds"] > 0
    with Image.open(out / "plane-96x72-2.png") as picture:
        assert picture.width > 3 * WIDTH and picture.height > 2 * HEIGHT
    row = experiment.table([figures]).splitlines()[-1]
    assert row.startswith(f"| plane 96x72 | 2 | {100 * figures['median']:.2f} % | ")


def test_references_are_points_tracked_well_in_the_view(experiment, plane):
    """Without exact depths: points of the COLMAP model, by the ids that its images have in it."""
    for file in (plane / "depths").iterdir():
        file.unlink()
    (plane / "depths").rmdir()
    model = plane / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    # The pose of image 7 counts for nothing here: it is the same for all.
    images = "".join(f"{7 - i} 1 0 0 0 {-0.2 * i} 0 0 1 {i}.png\n\n" for i in range(5))
    (model / "images.txt").write_text(images)
    tracks = ["6 0 5 0 4 0", "6 0 5 0", "6 0 5 0 4 0", "7 0 5 0 4 0", "6 0 5 0 4 0"]
    errors = [1.0, 1.0, 2.5, 1.0, 0.1]
    positions = ["0 0 4", "0 0 4", "0 0 4", "0 0 4", "0.3 0.1 5"]
    lines = [
        f"{i + 1} {xyz} 9 9 9 {error} {track}\n"
        for i, (xyz, error, track) in enumerate(zip(positions, errors, tracks, strict=True))
    ]
    (model / "points3D.txt").write_text("".join(lines))
    scene = load_scene(str(plane), views=2, downscale=1)
    row, column, depth = experiment.reference_points(scene, 1)  # image 6
    # The second is seen by two images, the third has too large an error, the fourth is not seen in this view.
    np.testing.assert_allclose(depth, [4, 5])
    np.testing.assert_array_equal(column, np.floor([48 + 90 * -0.2 / 4, 48 + 90 * 0.1 / 5]))
    np.testing.assert_array_equal(row, np.floor([36, 36 + 90 * 0.1 / 5]))
