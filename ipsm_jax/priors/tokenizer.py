"""CLIP's byte-pair encoding: text to token ids, with the vocabulary of a checkpoint's tokenizer/ folder.

Text is cleaned, lowercased and cut into words, each word into the characters that stand for its UTF-8 bytes, the last
of them marked with </w>; then the pair that comes first in merges.txt is joined, until no listed pair is left. Gives
exactly the ids of transformers' CLIPTokenizer (without ftfy, which repairs wrongly decoded text).
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ipsm_jax.priors.config import PriorError

START, END = "<|startoftext|>", "<|endoftext|>"

# Scripts without spaces between words: each of these characters becomes a word.
_IDEOGRAPHS = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])"
)
_SPECIAL = re.compile(f"({re.escape(START)}|{re.escape(END)})")
_FIXED_WORD = re.compile(f"{re.escape(START)}|{re.escape(END)}|'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
_WORD_OF_KINDS = re.compile("L+|N|[^LN ]+")


def _byte_characters() -> list[str]:
    """A printable character for each byte: itself where it is one, otherwise the next unused one from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()


def _words(text: str) -> Iterator[str]:
    """Cut cleaned text: special tokens, 's and the like, runs of letters, single digits, runs of anything else."""
    kinds = "".join(" " if c.isspace() else unicodedata.category(c)[0] for c in text)
    position = 0
    while position < len(text):
        match = _FIXED_WORD.match(text, position) or _WORD_OF_KINDS.match(kinds, position)
        if match is None:
            position += 1  # a space
            continue
        yield text[position : match.end()]
        position = match.end()


def _clean(text: str) -> str:
    """Control characters removed, ideographs set apart, composed characters, single spaces, lower case."""
    kept = (
        " " if c in "\t\n\r" or unicodedata.category(c) == "Zs" else c
        for c in text
        if c in "\t\n\r" or (c != "\ufffd" and unicodedata.category(c)[0] != "C")
    )
    spaced = _IDEOGRAPHS.sub(r" \1 ", "".join(kept))
    return " ".join(unicodedata.normalize("NFC", spaced).split()).lower()


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The vocabulary and how to join it.

    Attributes:
      ids: id of each token.
      ranks: place of each pair in merges.txt; lower is joined first.
      pad: id that fills up short texts.
    """

    ids: dict[str, int]
    ranks: dict[tuple[str, str], int]
    pad: int

    def tokens(self, text: str) -> list[int]:
        """Ids of a text of any length, without start, end and padding."""
        found = []
        for part in _SPECIAL.split(text):
            if part in (START, END):
                found.append(self.ids[part])
                continue
            for word in _words(_clean(part)):
                if word in (START, END):
                    found.append(self.ids[word])
                else:
                    found.extend(self.ids[piece] for piece in self._pieces(word))
        return found

    def encode(self, text: str, length: int = 77) -> Int[np.ndarray, " n"]:
        """Start token, text, end token, padding; what does not fit into `length` is cut off."""
        row = [self.ids[START], *self.tokens(text)[: length - 2], self.ids[END]]
        return np.array(row + [self.pad] * (length - len(row)), np.int32)

    def _pieces(self, word: str) -> list[str]:
        """The tokens that a word is made of."""
        pieces = [BYTE_CHARACTERS[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            joined: list[str] = []
            for piece in pieces:
                # the joined piece is longer than its first half, so it cannot be taken for one again
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return pieces


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read vocab.json, merges.txt and, where there is one, special_tokens_map.json (for the padding token).

    Raises:
      PriorError: if a file is missing or malformed, or the vocabulary lacks a byte, a special token or a joined pair.
    """
    try:
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{folder} is not a readable tokenizer folder: {error}") from error
    if not isinstance(ids, dict) or not all(type(value) is int and 0 <= value < 1 << 31 for value in ids.values()):
        raise PriorError(f"{folder / 'vocab.json'} must map tokens to integers from 0")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    malformed = next((pair for pair in pairs if len(pair) != 2), None)
    if malformed is not None:
        raise PriorError(f"{folder / 'merges.txt'}: each line must hold two tokens, found {' '.join(malformed)!r}")
    needed = [START, END, *BYTE_CHARACTERS, *(f"{c}</w>" for c in BYTE_CHARACTERS), *("".join(p) for p in pairs)]
    lacking = [token for token in needed if token not in ids]
    if lacking:
        raise PriorError(
            f"{folder / 'vocab.json'} lacks {len(lacking)} tokens that merges.txt or CLIP's byte encoding need, "
            f"the first is {lacking[0]!r}: the two files do not belong together"
        )
    ranks: dict[tuple[str, str], int] = {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs)}
    return Tokenizer(ids, ranks, ids[_padding_token(folder, ids)])


def _padding_token(folder: Path, ids: dict[str, int]) -> str:
    path = folder / "special_tokens_map.json"
    if not path.is_file():
        return END
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("pad_token", END)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise PriorError(f"{path} is not readable: {error}") from error
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str) or token not in ids:
        raise PriorError(f"{path}: the padding token {token!r} is not in vocab.json")
    return token
