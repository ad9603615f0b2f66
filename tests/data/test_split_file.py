"""A scene's own lists of training and test views."""

import json

import pytest

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.load import load_scene
from ipsm_jax.data.split_file import FILE, read_split, write_split
from ipsm_jax.data.synthetic import make_scene

NAMES = ("a.png", "b.png", "c.png")


def test_what_is_written_is_read(tmp_path):
    assert read_split(tmp_path, NAMES) is None
    write_split(tmp_path, ["c.png", "a.png"], ["b.png"])
    assert read_split(tmp_path, NAMES) == {"train": (0, 2), "test": (1,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object with two lists"),
        ('{"train": ["a.png"], "test": []}', "test is no such list"),
        ('{"train": ["a.png"], "test": [3]}', "test is no such list"),
        ('{"train": ["a.png", "x.png"], "test": ["b.png"]}', r"there is no photo x.png \(1 of 2 of the train list"),
    ],
)
def test_broken_files_end_in_a_sentence(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, NAMES)


def test_scene_trains_on_its_own_lists(tmp_path):
    make_scene(tmp_path / "demo", 16, 12, 6, samples=1)
    plain = load_scene(str(tmp_path / "demo"), downscale=1, views=2)
    content = {"train": [plain.names[i] for i in (0, 2, 3)], "test": [plain.names[5]]}
    (tmp_path / "demo" / FILE).write_text(json.dumps(content))
    scene = load_scene(str(tmp_path / "demo"), downscale=1, views=2)
    assert (scene.train, scene.test) == ((0, 3), (5,)) and scene.notes[-1] == "split: the scene's own lists"
    llff = load_scene(str(tmp_path / "demo"), downscale=1, views=2, split="llff")
    assert (llff.train, llff.test) == (plain.train, plain.test)
