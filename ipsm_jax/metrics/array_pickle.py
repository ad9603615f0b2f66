"""Pickles of dicts of numpy arrays, read without `pickle`: nothing that they ask for is called.

A pickle is a program for a stack machine. The instructions known here, a third of all, build numbers, strings, tuples
and dicts. Of what a pickle may ask to have called, an array and its number format are made by this module itself, from
bytes that are in the file; everything else is refused. Python's own machine, told to call nothing, would still allocate
any amount of memory that some instructions claim.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import Any

import numpy as np

_RECONSTRUCT = frozenset(("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"))
_ARRAY, _FORMAT = "numpy ndarray", "numpy dtype"
_FORMATS = re.compile("[fiub][1248]")


class _Name(str):
    """What a pickle asks for by name."""


class _Format:
    """A number format; its byte order comes with a later instruction."""

    def __init__(self, kind: str) -> None:
        self.kind, self.order = kind, "="

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


class _Array:
    """An array; its content comes with a later instruction."""

    value: np.ndarray | None = None


def read_array_pickle(data: bytes) -> Any:
    """The object that a pickle holds.

    Raises:
      ValueError: it is damaged, or more than dicts, tuples, numbers, strings and numpy arrays.
    """
    try:
        return _run(data)
    except (TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                found = memo[argument]
                stack.append(found.value if isinstance(found, _Array) else found)
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _dict(stack)[key] = value
            case "SETITEMS":
                items = since_mark()
                _dict(stack).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{module} {name}"))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_begun(called, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1] = _built(stack[-1], state)
            case name:
                raise ValueError(f"it has the instruction {name}")
    raise ValueError("it has no end")


def _dict(stack: list[Any]) -> dict[Any, Any]:
    if type(stack[-1]) is not dict:
        raise ValueError("it puts items into something that is no dict")
    return stack[-1]


def _known(name: str) -> _Name:
    if name not in _RECONSTRUCT and name not in (_ARRAY, _FORMAT):
        raise ValueError(f"it asks for {name.replace(' ', '.')}")
    return _Name(name)


def _begun(called: Any, arguments: Any) -> _Array | _Format:
    """An array or a number format without content yet."""
    if isinstance(called, _Name) and called in _RECONSTRUCT and arguments[0] == _ARRAY:
        return _Array()
    if isinstance(called, _Name) and called == _FORMAT and _FORMATS.fullmatch(arguments[0]):
        return _Format(arguments[0])
    raise ValueError("it calls something that makes no array of numbers")


def _built(begun: Any, state: Any) -> np.ndarray | _Format:
    """The array or number format with its content."""
    if isinstance(begun, _Format):
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("an array has a number format of an unknown byte order")
        begun.order = state[1]
        return begun
    if not isinstance(begun, _Array):
        raise ValueError("it sets the content of something that is no array")
    _, shape, kind, fortran, content = state
    if not isinstance(kind, _Format) or not isinstance(content, bytes):
        raise ValueError("an array holds something else than numbers")
    begun.value = np.frombuffer(content, kind.dtype()).reshape(shape, order="F" if fortran else "C")
    return begun.value
