"""The tokenizer without transformers: cases worked out by hand, and what must hold for any text."""

import json
import shutil
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import END, MERGES, START, write_tokenizer

from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.tokenizer import BYTE_CHARACTERS, read_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return read_tokenizer(folder)


def pieces(tokenizer, text):
    names = {value: name for name, value in tokenizer.ids.items()}
    return [names[i] for i in tokenizer.tokens(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the THE  the\n", ["the</w>"] * 3),
        ("photo photos", ["photo</w>", "phot", "o", "s</w>"]),  # only photo at the end of a word is one token
        ("there", ["th", "e", "r", "e</w>"]),
        ("a,b!?", ["a</w>", ",</w>", "b</w>", "!", "?</w>"]),
        ("x12", ["x</w>", "1</w>", "2</w>"]),
        ("it's", ["i", "t</w>", "'", "s</w>"]),
        ("é", ["Ã", "©</w>"]),  # two bytes of UTF-8
        ("e\u0301", ["Ã", "©</w>"]),  # composed
        (f"a{END}b", ["a</w>", END, "b</w>"]),
        ("", []),
    ],
)
def test_by_hand(tokenizer, text, expected):
    assert pieces(tokenizer, text) == expected


def test_length_and_padding(tokenizer):
    start, end = tokenizer.ids[START], tokenizer.ids[END]
    short = tokenizer.encode("the the", 6)
    assert short.tolist() == [start, tokenizer.ids["the</w>"], tokenizer.ids["the</w>"], end, end, end]
    long = tokenizer.encode("the " * 100)
    assert long.shape == (77,) and long[0] == start and long[-1] == end and end not in long[:-1]


def test_padding_token_of_the_folder(folder, tmp_path):
    """Stable Diffusion 2 pads with "!"; newer files give the token as an object."""
    copy = shutil.copytree(folder, tmp_path / "tokenizer")
    for token in ("!", {"content": "!", "lstrip": False}):
        (copy / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
        assert read_tokenizer(copy).encode("", 4).tolist()[2:] == [read_tokenizer(copy).ids["!"]] * 2
    (copy / "special_tokens_map.json").unlink()
    assert read_tokenizer(copy).pad == read_tokenizer(copy).ids[END]
    (copy / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(PriorError, match=r"the padding token '\[PAD\]' is not in vocab.json"):
        read_tokenizer(copy)


@given(st.text(st.characters(exclude_categories=("C",)), max_size=30))
def test_tokens_spell_the_text(text):
    """Undoing the bytes gives back the text, but for case, composition and spaces."""
    tokens = pieces(TOKENIZER, text)
    bytes_ = bytes(BYTE_CHARACTERS.index(c) for token in tokens for c in token.replace("</w>", ""))
    expected = "".join(unicodedata.normalize("NFC", text.replace("\ufffd", "")).lower().split())
    assert bytes_.decode() == expected


@pytest.fixture(scope="module", autouse=True)
def shared(tokenizer):
    """hypothesis has no use for fixtures of a module's length."""
    global TOKENIZER
    TOKENIZER = tokenizer


def test_files_that_do_not_belong_together(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "tokenizer")
    (copy / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, "q q"]))
    with pytest.raises(PriorError, match=r"lacks 1 tokens .* the first is 'qq': the two files do not belong together"):
        read_tokenizer(copy)
    (copy / "merges.txt").write_text("a b c")
    with pytest.raises(PriorError, match="each line must hold two tokens, found 'a b c'"):
        read_tokenizer(copy)
    (copy / "vocab.json").write_text("[]")
    with pytest.raises(PriorError, match="must map tokens to integers"):
        read_tokenizer(copy)
    (copy / "vocab.json").unlink()
    with pytest.raises(PriorError, match="not a readable tokenizer folder"):
        read_tokenizer(copy)
