"""Damage to files: what disks, networks, other programs and people with bad intentions do to them.

Blind changes (bits, cuts, copied pieces, numbers replaced) rarely get past the first check of a format that carries
lengths or checksums. So there are changes that know a little about formats, too: JSON is changed as a tree, the header
of a .npy or safetensors file gets its right length back, chunks of a PNG their right checksums.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_COUNTS = (0, 1, 2, -1, 255, 256, 65535, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    "0 -1 1e400 -1e39 NaN nan inf -Infinity 1e-320 0.1 99999999999999999999 4294967296 -0 1_0 0x10 null true {} [] "
    '"" ../../../etc/passwd /etc/passwd \ud7ff é 漢字 # , : = | \t \n \r\n \0 ply end_header format <|endoftext|>'
)
_WORDS = (
    *(word.encode() for word in _TEXTS.split(" ")),
    *(b"9" * 30, b"9" * 5000, "é".encode() * 180, b"a/" * 3000, b"\xff\xfe", b"\x1b[2J"),
)
_PLAIN = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    -1e300,
    1e308,
    10**400,
    2**63,
    "",
    "x",
    "../..",
    "\ud800",
    "é" * 180,
    "a\0b",
)


def mutate(rng: Random, data: bytes) -> tuple[str, bytes]:
    """The names of one to three changes, and the data with these made to it."""
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(_CHANGES)
        changed = change(rng, data)
        if changed is not None:
            names.append(change.__name__.strip("_"))
            data = changed
    if rng.random() < 0.5:
        data = _repaired(data)
    return " + ".join(names) or "nothing", data


def _piece(rng: Random, data: bytes) -> tuple[int, int]:
    """Start and end of some part of the data, short ones as likely as long ones."""
    length = min(len(data), int(2 ** rng.uniform(0, max(1, len(data).bit_length()))))
    start = rng.randint(0, len(data) - length)
    return start, start + length


def _flip_bits(rng: Random, data: bytes) -> bytes | None:
    if not data:
        return None
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(rng: Random, data: bytes) -> int:
    """A position, often one of the first where headers are."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


def _cut_off(rng: Random, data: bytes) -> bytes | None:
    return data[: rng.randrange(len(data))] if data else None


def _remove(rng: Random, data: bytes) -> bytes:
    start, end = _piece(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, end = _piece(rng, data)
    return data[:start] + data[start:end] * rng.choice((2, 2, 3, 5)) + data[end:]


def _splice(rng: Random, data: bytes) -> bytes:
    """Another part of the file in the place of one."""
    start, end = _piece(rng, data)
    other, stop = _piece(rng, data)
    return data[:start] + data[other:stop] + data[end:]


def _zeros(rng: Random, data: bytes) -> bytes:
    """A block that the disk has lost."""
    start, end = _piece(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def _insert(rng: Random, data: bytes) -> bytes:
    start, _ = _piece(rng, data)
    return data[:start] + rng.choice((rng.choice(_WORDS), rng.randbytes(rng.randint(1, 20)))) + data[start:]


def _run(rng: Random, data: bytes) -> bytes:
    """One character very often: deep nesting, long names."""
    start, _ = _piece(rng, data)
    return data[:start] + rng.choice(b'([{-"0 a\n\\').to_bytes() * rng.choice((300, 5000, 200_000)) + data[start:]


def _number_in_text(rng: Random, data: bytes) -> bytes | None:
    found = list(_NUMBER.finditer(data[: 1 << 16]))
    if not found:
        return None
    match = rng.choice(found)
    if rng.random() < 0.3:  # of the same length, which formats with lengths need
        number = bytes(rng.choice(b"0123456789") for _ in match[0])
    else:
        number = rng.choice((rng.choice(_WORDS), str(rng.choice(_COUNTS)).encode(), b"-" + match[0]))
    return data[: match.start()] + number + data[match.end() :]


def _count(rng: Random, data: bytes) -> bytes | None:
    """A binary number that claims to be a size."""
    size = rng.choice((1, 2, 4, 8))
    if len(data) < size:
        return None
    start = min(_place(rng, data), len(data) - size)
    if rng.random() < 0.5:
        start -= start % size
    number = rng.choice((*_COUNTS, rng.getrandbits(8 * size))) % (1 << 8 * size)
    return data[:start] + number.to_bytes(size, rng.choice(("little", "big"))) + data[start + size :]


def _float(rng: Random, data: bytes) -> bytes | None:
    kind = rng.choice(["<f", "<d", "<e", ">f", ">d"])
    size = struct.calcsize(kind)
    if len(data) < size:
        return None
    start = rng.randint(0, len(data) - size)
    start -= rng.choice((0, start % size))
    number = struct.pack(kind, rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 6e4, -6e4)))
    return data[:start] + number + data[start + size :]


def _tree(rng: Random, data: bytes) -> bytes | None:
    """`_changed_json`, also in the header of a safetensors file: its length, the header, arrays."""
    if data[8:9] != b"{":
        return _changed_json(rng, data)
    (length,) = struct.unpack_from("<Q", data)
    header = _changed_json(rng, data[8 : 8 + length])
    return None if header is None else struct.pack("<Q", len(header)) + header + data[8 + length :]


def _changed_json(rng: Random, data: bytes) -> bytes | None:
    """A value somewhere in JSON replaced, removed, doubled, wrapped or renamed."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        if isinstance(node, (dict, list)):
            for key in node if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                walk(node[key])

    walk(tree)
    if not places:
        return None
    node, key = rng.choice(places[:40] if rng.random() < 0.5 else places)
    match rng.randrange(6):
        case 0:
            del node[key]
        case 1:
            node[key] = [node[key]]
        case 2:
            node[key] = {"x": node[key]}
        case 3 if isinstance(node, list):
            node.append(node[key])
        case 3 if isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
        case 4:
            other, where = rng.choice(places)
            node[key] = json.loads(json.dumps(other.get(where) if isinstance(other, dict) else other[:1]))
        case _:
            node[key] = rng.choice(_PLAIN)
    return json.dumps(tree).encode()


_CHANGES: tuple[Callable[[Random, bytes], bytes | None], ...] = (
    _flip_bits, _cut_off, _remove, _repeat, _splice, _zeros, _insert, _run, _number_in_text, _count, _float, _tree,
    _number_in_text, _count, _tree,
)  # fmt: skip


def _repaired(data: bytes) -> bytes:
    """The data with lengths and checksums of its format made right, so that readers look behind them."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_checksums(data)
    if data.startswith(b"\x93NUMPY\x01\x00") and (end := data.find(b"\n", 10, 10 + 65536)) > 0:
        return data[:8] + struct.pack("<H", end - 9) + data[10:]
    return data


def _png_checksums(data: bytes) -> bytes:
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunk = data[at + 4 : at + 8 + length]
        parts.append(data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        at += 12 + length
    return b"".join(parts)
