"""Unpickle lists, bytes, numbers and flat NumPy arrays, and nothing else.

A pickle is a program: unpickling a file from a stranger can run any command. Here the program is
read through first. It may only hold the instructions that build such values, and of the names that
it may call each stands for a function of this file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

_NAMES = (
    "PROTO FRAME STOP MARK POP POP_MARK "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 NEWTRUE NEWFALSE NONE "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_INSTRUCTIONS = frozenset(_NAMES.split())
_KINDS = {"b1": np.bool_, "u1": np.uint8, "i1": np.int8, "i4": np.int32, "i8": np.int64}


def loads(data: bytes) -> Any:
    """Return what a pickle holds, if it holds nothing but lists, tuples, bytes, numbers and arrays.

    Args:
        data: the pickle, of any protocol; text of Python 2 becomes bytes.

    Returns:
        The value. Arrays are copies of their own.

    Raises:
        ValueError: it is no pickle, is damaged, or asks for anything else; nothing of it was run.

    Example:

    >>> loads(pickle.dumps(([b"jpeg"], np.array([True]))))
    ([b'jpeg'], array([ True]))
    """
    try:
        _read_through(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _RefusedError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        raise ValueError(
            f"not a pickle, or a damaged one ({type(error).__name__}: {error})"
        ) from error
    return _finished(value, 0)


class _RefusedError(Exception):
    """What the pickle asks for, and does not get."""


def _read_through(data: bytes) -> None:
    """Refuse instructions that lists and arrays do not need, without running any."""
    for name, _ in instructions(data):
        if name not in _INSTRUCTIONS:
            raise _RefusedError(f"its instruction {name} is not one that lists and arrays need")


class _Name:
    """Stands for a class that a pickle only mentions."""

    __slots__ = ()


class _Kind:
    """Stands for a `numpy.dtype`."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if _text(order) not in ("|", "<", "="):
            raise _RefusedError(f"arrays of byte order {order!r}")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type of the array's numbers, little endian."""
        return np.dtype(_KINDS[self.code]).newbyteorder("<")


class _Array:
    """Stands for a `numpy.ndarray` until its content comes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("an array that is described wrongly")
        _, shape, kind, by_columns, content = state
        if by_columns:
            raise _RefusedError("an array that is stored by columns")
        self.value = _array(content, kind, shape)


class _MakeKind:
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Kind:
        if _text(code) not in _KINDS:
            raise _RefusedError(f"arrays of {code!r}")
        return _Kind(str(_text(code)))


class _MakeArray:
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _MakeFlat:
    """Stands for `numpy._core.numeric._frombuffer`, which protocol 5 calls."""

    __slots__ = ()

    def __call__(self, content: Any, kind: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, kind, _text(order) == "F" and len(shape) > 1, content))
        return array


class _MakeScalar:
    __slots__ = ()

    def __call__(self, kind: Any, content: Any) -> Any:
        return _array(content, kind, ()).item()


class _MakeBytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes for Python 2, and for `bytes`."""

    __slots__ = ()

    def __call__(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or _text(encoding) != "latin1":
            raise _RefusedError("text in another encoding than latin1")
        return text.encode("latin1")


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _MakeKind(),
    ("numpy", "ndarray"): _Name(),
    ("_codecs", "encode"): _MakeBytes(),
    ("__builtin__", "bytes"): _MakeBytes(),
    ("builtins", "bytes"): _MakeBytes(),
    **{(module, "_reconstruct"): _MakeArray() for module in _MULTIARRAY},
    **{(module, "scalar"): _MakeScalar() for module in _MULTIARRAY},
    ("numpy.core.numeric", "_frombuffer"): _MakeFlat(),
    ("numpy._core.numeric", "_frombuffer"): _MakeFlat(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"it asks for {module}.{name}, which is no list, bytes or array")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("it refers to something outside of it")


def _array(content: Any, kind: Any, shape: Any) -> np.ndarray:
    if not isinstance(kind, _Kind) or not isinstance(content, bytes | bytearray):
        raise _RefusedError("an array that is described wrongly")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _RefusedError("an array that is described wrongly")
    if math.prod(shape) * kind.numpy.itemsize != len(content):
        raise _RefusedError("an array whose content does not fit its shape")
    values = np.frombuffer(content, kind.numpy).astype(kind.numpy.newbyteorder("="))
    return values.reshape(shape)


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _finished(value: Any, depth: int, done: dict[int, Any] | None = None) -> Any:
    """Put arrays in the place of what stands for them; refuse what is nested deeper than lists.

    What comes many times is looked at once: a small file can hold a list of one list, often.
    """
    done = {} if done is None else done
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


def instructions(data: bytes | BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield the name and argument of each instruction of a pickle, without running any.

    Args:
        data: the pickle; a stream is read up to the pickle's end.

    Raises:
        ValueError: it is no pickle, or it numbers a value higher than it can have values. The C
            unpickler takes memory for as many values as the highest number says, so that ten bytes
            could ask for 34 GB.

    Example:

    >>> import pickle
    >>> [name for name, _ in instructions(pickle.dumps(None, protocol=0))]
    ['NONE', 'STOP']
    """
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data), start=1):
        if instruction.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise ValueError(f"it keeps its value number {argument}, and has {count} at most")
        yield instruction.name, argument
