"""Captions from files: one alone, the published file of a scene, one line per scene."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data.captions import read_caption
from ipsm_jax.data.errors import DataError


def write(folder, text, encoding="utf-8"):
    path = folder / "captions.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("text", ["a fern, in a café", "\n  a fern, in a café \r\n\n"])
def test_one_line_is_the_caption_of_any_scene(tmp_path, text, encoding):
    path = write(tmp_path, text, encoding)
    assert read_caption(path, "fern") == read_caption(path, "horns") == "a fern, in a café"


def test_the_published_file_names_an_image_and_holds_one_caption(tmp_path):
    """As the IPSM-Gaussian repository's captioning script writes it, without a newline at the end."""
    path = write(tmp_path, "random select IMG_4038 blip result:a photography of a plant in a room")
    assert read_caption(path, "fern") == "a photography of a plant in a room"
    path = write(tmp_path, "random select rect_001_3_r5000 blip result:a photography of a shop: closed")
    assert read_caption(path, "scan8") == "a photography of a shop: closed"


@pytest.mark.parametrize("separator", [":", ": ", " : ", "\t", "=", " = ", " | "])
def test_one_line_per_scene(tmp_path, separator):
    captions = {"fern": "a fern: large, in a pot", "Horns": "the skull of a dinosaur = old"}
    path = write(tmp_path, "\r\n".join(f"{scene}{separator}{text}" for scene, text in captions.items()) + "\r\n\r\n")
    assert read_caption(path, "fern") == captions["fern"]
    assert read_caption(path, "horns") == read_caption(path, "HORNS") == captions["Horns"]
    with pytest.raises(DataError, match=r"no caption of the scene room; it has fern, horns$"):
        read_caption(path, "room")


def test_a_single_line_of_another_scene_is_not_taken_for_a_caption(tmp_path):
    path = write(tmp_path, "horns: a skull")
    assert read_caption(path, "horns") == "a skull"
    with pytest.raises(DataError, match=r"no caption of the scene fern; it has horns \(a caption alone must not begin"):
        read_caption(path, "fern")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no caption: it is empty"),
        (" \n\t\n", "holds no caption: it is empty"),
        ("random select IMG_1 blip result: ", 'what follows "blip result:" is empty'),
        ("fern:\nhorns: a skull", "the caption of fern is empty"),
        ("fern: a\nFERN: b", "two captions of the scene FERN"),
        ("a fern in a pot\na skull", "has 2 lines, so each must be SCENE: CAPTION; this one is not: 'a fern in a pot'"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, said):
    with pytest.raises(DataError, match=re.escape(said)):
        read_caption(write(tmp_path, text), "fern")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.txt is not readable as a file of captions: No such file"):
        read_caption(tmp_path / "nowhere.txt", "fern")
    with pytest.raises(DataError, match="is not readable as a file of captions: Is a directory"):
        read_caption(tmp_path, "fern")
    with pytest.raises(DataError, match="not UTF-8"):
        read_caption(write(tmp_path, "a café", "latin-1"), "fern")


WORDS = st.text(st.characters(exclude_characters=":=|", exclude_categories=["C", "Z"]), min_size=1)
TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1).map(str.strip).filter(bool)


@given(st.dictionaries(WORDS, TEXTS, min_size=1), st.sampled_from([":", "\t", "=", "|", " : "]))
def test_what_is_written_per_scene_is_read_back(tmp_path_factory, captions, separator):
    by_name = {scene.casefold(): (scene, text) for scene, text in captions.items()}  # one of each spelling
    lines = [f"{scene}{separator}{text}" for scene, text in by_name.values()]
    path = write(tmp_path_factory.mktemp("captions"), "\n".join(lines))
    for scene, text in by_name.values():
        assert read_caption(path, scene) == text
