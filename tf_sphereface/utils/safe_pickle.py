"""Unpickling of files from strangers: what they may name is listed, all else is refused.

A pickle is a program: unpickling it can run any command. Here the program is read through first,
and of the names that it may call each stands for a function of ours. `loads` reads lists, bytes,
numbers and flat NumPy arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np


class RefusedError(Exception):
    """What a pickle asks for, and does not get."""


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles what is made of `allowed`, and refuses everything else before it is imported.

    A subclass sets `allowed`, (module, name) to what a pickle gets for it; `only`, what that makes,
    in words; and `needed`, the instructions that make it (None allows all). What it refuses is a
    `RefusedError`; a ValueError says that it is no pickle, or numbers a value higher than it can
    have values. `stream` stands at the pickle's beginning; `encoding` is of Python 2's text.
    """

    allowed: ClassVar[Mapping[tuple[str, str], Any]]
    only: ClassVar[str]
    needed: ClassVar[frozenset[str] | None] = None

    def __init__(self, stream: BinaryIO, *, encoding: str) -> None:
        begin = stream.tell()
        for name in _instructions(stream):
            if self.needed is not None and name not in self.needed:
                raise RefusedError(f"refused: {self.only} do not need its instruction {name}")
        stream.seek(begin)
        super().__init__(stream, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if (module, name) not in self.allowed:
            raise RefusedError(
                f"refused: it names {module}.{name}, and only {self.only} are allowed"
            )
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies outside the pickle."""
        raise RefusedError("refused: it refers to something outside of it")


def _instructions(stream: BinaryIO) -> Iterator[str]:
    """Yield the name of each instruction of a pickle, without running any.

    The C unpickler takes memory for as many values as the highest number says, so that ten bytes
    could ask for 34 GB: a number past the count of instructions is an error.
    """
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream), start=1):
        if instruction.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise ValueError(f"it keeps its value number {argument}, and has {count} at most")
        yield instruction.name


def stand_in(function: Callable[..., Any]) -> Any:
    """Return an object that calls a function, to stand for one in `allowed`.

    It has no attributes of its own, so that a pickle cannot change it with a BUILD instruction.
    """
    return type(function.__name__, (), {"__slots__": (), "__call__": staticmethod(function)})()


def loads(data: bytes) -> Any:
    """Return what a pickle holds, if it holds nothing but lists, tuples, bytes, numbers and arrays.

    Text of Python 2 becomes bytes. A ValueError says that it is no pickle, is damaged, or asks for
    anything else; nothing of it was run.
    """
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except RefusedError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        raise ValueError(
            f"not a pickle, or a damaged one ({type(error).__name__}: {error})"
        ) from error
    return _finished(value, 0, {})


_NAMES = (
    "PROTO FRAME STOP MARK POP POP_MARK "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 NEWTRUE NEWFALSE NONE "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_KINDS = ("b1", "u1", "i1", "i4", "i8")


class _Kind:
    """Stands for a `numpy.dtype`, little endian."""

    __slots__ = ("numpy",)

    def __init__(self, code: str) -> None:
        self.numpy = np.dtype(f"<{code}")

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if _text(order) not in ("|", "<", "="):
            raise RefusedError(f"arrays of byte order {order!r}")


class _Array:
    """Stands for a `numpy.ndarray` until its content comes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array that is described wrongly")
        _, shape, kind, by_columns, content = state
        if by_columns:
            raise RefusedError("an array that is stored by columns")
        self.value = _array(content, kind, shape)


@stand_in
def _make_kind(code: Any, *_: Any) -> _Kind:
    if _text(code) not in _KINDS:
        raise RefusedError(f"arrays of {code!r}")
    return _Kind(str(_text(code)))


@stand_in
def _make_array(*_: Any) -> _Array:
    return _Array()


@stand_in
def _make_flat(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Stands for `numpy._core.numeric._frombuffer`, which protocol 5 calls."""
    array = _Array()
    array.__setstate__((1, shape, kind, _text(order) == "F" and len(shape) > 1, content))
    return array


@stand_in
def _make_scalar(kind: Any, content: Any) -> Any:
    return _array(content, kind, ()).item()


@stand_in
def _make_bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes for Python 2, and for `bytes`."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        raise RefusedError("text in another encoding than latin1")
    return text.encode("latin1")


class _Unpickler(RestrictedUnpickler):
    only = "lists, bytes, numbers and arrays"
    needed = frozenset(_NAMES.split())
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _make_kind,
        ("numpy", "ndarray"): object(),  # a pickle only mentions it
        ("_codecs", "encode"): _make_bytes,
        ("__builtin__", "bytes"): _make_bytes,
        ("builtins", "bytes"): _make_bytes,
        # NumPy 1 and NumPy 2
        ("numpy.core.multiarray", "_reconstruct"): _make_array,
        ("numpy._core.multiarray", "_reconstruct"): _make_array,
        ("numpy.core.multiarray", "scalar"): _make_scalar,
        ("numpy._core.multiarray", "scalar"): _make_scalar,
        ("numpy.core.numeric", "_frombuffer"): _make_flat,
        ("numpy._core.numeric", "_frombuffer"): _make_flat,
    }


def _array(content: Any, kind: Any, shape: Any) -> np.ndarray:
    named = isinstance(kind, _Kind) and isinstance(content, bytes | bytearray)
    sides = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not (named and sides):
        raise RefusedError("an array that is described wrongly")
    if math.prod(shape) * kind.numpy.itemsize != len(content):
        raise RefusedError("an array whose content does not fit its shape")
    values = np.frombuffer(content, kind.numpy).astype(kind.numpy.newbyteorder("="))
    return values.reshape(shape)


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _finished(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """Put arrays in the place of what stands for them; refuse what is nested deeper than lists.

    What comes many times is looked at once: a small file can hold a list of one list, often.
    """
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, list | tuple):
        if depth > 2:
            raise ValueError("lists within lists within lists")
        if id(value) not in done:
            done[id(value)] = type(value)(_finished(item, depth + 1, done) for item in value)
        return done[id(value)]
    if value is None or isinstance(value, bytes | bytearray | str | bool | int):
        return value
    raise ValueError(f"a value of another kind: {type(value).__name__}")
