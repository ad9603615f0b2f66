"""PLY files as tables of numbers: header, ASCII and both binary byte orders, vertices only.

The header's count is checked against the size of the file before anything is allocated.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ipsm_jax.data.errors import DataError

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ENDIANS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_MAX_HEADER = 1 << 20
_LONGEST_NUMBER = 64  # characters


class PlyHeader(NamedTuple):
    """What a header says about its vertices."""

    encoding: str  # ascii, binary_little_endian or binary_big_endian
    vertices: int
    properties: tuple[tuple[str, str], ...]  # (name, numpy type code)
    data_start: int  # offset of the first vertex in bytes

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the properties, in the order of the file."""
        return tuple(name for name, _ in self.properties)


def read_header(path: Path) -> PlyHeader:
    """Header of a PLY file whose first element is the vertices.

    Raises:
      DataError: if the file is missing, no PLY, or laid out in another way.
    """
    try:
        with open(path, "rb") as file:
            return _parse_header(file, path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _parse_header(file: BinaryIO, path: Path) -> PlyHeader:
    if file.readline(8).rstrip(b"\r\n") != b"ply":
        raise DataError(f"{path}: not a PLY file (it does not start with the line 'ply')")
    encoding, count, element = "", -1, ""
    properties: list[tuple[str, str]] = []
    while True:
        raw = file.readline(4096)
        if not raw.endswith(b"\n") or file.tell() > _MAX_HEADER:
            raise DataError(f"{path}: the PLY header has no end_header line; the file is cut short or damaged")
        words = raw.decode("latin-1").split()
        match words:
            case ["end_header"]:
                break
            case [] | ["comment", *_] | ["obj_info", *_]:
                continue
            case ["format", name, _] if name in _ENDIANS:
                encoding = name
            case ["element", "vertex", number] if number.isascii() and number.isdigit() and len(number) < 19:
                if element:
                    raise DataError(
                        f"{path}: the vertices must be the first element of the PLY file, not after {element}"
                    )
                element, count = "vertex", int(number)
            case ["element", name, _] if name != "vertex":
                element = name
            case ["property", *_] if element != "vertex":
                continue
            case ["property", kind, name] if kind in _TYPES and name not in dict(properties):
                properties.append((name, _TYPES[kind]))
            case _:
                raise DataError(f"{path}: cannot understand the PLY header line {' '.join(words)[:80]!r}")
    if not encoding or count < 0 or not properties:
        raise DataError(f"{path}: the PLY header lacks a format, an element vertex or its properties")
    return PlyHeader(encoding, count, tuple(properties), file.tell())


def read_vertices(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The wanted properties of all vertices, each (count,) in the file's own type.

    Args:
      path: the file.
      wanted: names that must be there; "x" may be any property of the header.

    Raises:
      DataError: for missing properties, a file shorter than its count, or malformed numbers.
    """
    header = read_header(path)
    missing = [name for name in wanted if name not in header.names]
    if missing:
        raise DataError(
            f"{path}: the PLY vertices have no {', '.join(missing)} (they have {', '.join(header.names)[:300]})"
        )
    table = _read_ascii(path, header) if header.encoding == "ascii" else _read_binary(path, header)
    return {name: table[name] for name in wanted}


def _check_room(path: Path, header: PlyHeader, record: int, unit: str) -> None:
    available = os.path.getsize(path) - header.data_start
    if header.vertices * record > available:
        raise DataError(
            f"{path}: cut short or damaged: the header claims {header.vertices} vertices of at least {record} {unit}, "
            f"but only {available} bytes follow it"
        )


def _read_binary(path: Path, header: PlyHeader) -> np.ndarray:
    order = _ENDIANS[header.encoding]
    layout = np.dtype([(name, order + code) for name, code in header.properties])
    _check_room(path, header, layout.itemsize, "bytes")
    return np.fromfile(path, layout, count=header.vertices, offset=header.data_start)


def _read_ascii(path: Path, header: PlyHeader) -> dict[str, np.ndarray]:
    columns = len(header.properties)
    _check_room(path, header, 2 * columns - 1, "characters")
    with open(path, "rb") as file:
        file.seek(header.data_start)
        words = file.read().split()
    needed = header.vertices * columns
    if words and max(map(len, words)) > _LONGEST_NUMBER:
        raise DataError(f"{path}: a vertex holds something that is no number ({max(words, key=len)[:40]!r}...)")
    if len(words) < needed:
        raise DataError(f"{path}: cut short: {header.vertices} vertices need {needed} numbers, found {len(words)}")
    try:
        values = np.array(words[:needed], dtype="S").astype(np.float64).reshape(header.vertices, columns)
    except ValueError as error:
        raise DataError(f"{path}: a vertex holds something that is no number ({error})") from None
    return {name: values[:, i] for i, name in enumerate(header.names)}


def header_text(count: int, names: tuple[str, ...], byte_names: tuple[str, ...] = ()) -> bytes:
    """Header of a binary little-endian file of vertices: floats, then bytes."""
    text = io.StringIO()
    text.write(f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n")
    for name in names:
        text.write(f"property float {name}\n")
    for name in byte_names:
        text.write(f"property uchar {name}\n")
    text.write("end_header\n")
    return text.getvalue().encode("ascii")
