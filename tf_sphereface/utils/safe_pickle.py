"""Unpickling of files from strangers: nothing that they name is imported or called.

A pickle is a program: unpickling it can run any command. Here the program is read through first.
Each name stands for a function of ours or, where a reader wants it, for a `Placeholder` that does
nothing. `loads` reads lists, bytes, numbers and flat NumPy arrays, and refuses all else.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np


class RefusedError(Exception):
    """What a pickle asks for, and does not get."""


class Placeholder:
    """Stands for a value of a class that is not imported; whatever a pickle does to it is harmless.

    Attributes:
        origin: the class' or function's name, such as `"argparse.Namespace"`.
        arguments: what it was called with.
        contents: what was set by key, as in a subclass of `dict`.
        state: what its attributes would have become.
    """

    __slots__ = ("arguments", "contents", "state")
    origin: ClassVar[str] = ""

    arguments: tuple[Any, ...]
    contents: dict[Any, Any] | None
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Placeholder:
        self = object.__new__(cls)
        self.arguments, self.contents, self.state = arguments, None, None
        return self

    def __call__(self, *arguments: Any, **_: Any) -> Placeholder:
        return Placeholder(*arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.contents is None:
            self.contents = {}
        self.contents[key] = value

    def append(self, _: Any) -> None:
        """Take an item of a list."""

    extend = add = append


_HARMFUL = re.compile(
    r"(os|posix|nt)\.(system|popen|startfile|exec\w*|(posix_)?spawn\w*|remove|unlink|rmdir)"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open)"
    r"|(subprocess|commands|popen2|runpy|pty|ctypes|importlib|webbrowser|shutil|socket)\b.*"
)
"""What no stored value has a use for: a file that names it is an attack, and its reader is told.

A pickle of protocol 2 calls `subprocess` `commands`.
"""

_GIVE_A_CLASS = (
    *("getattr", "_make_skeleton_class", "_make_skeleton_enum", "_builtin_type"),
    *("_create_type", "_load_type"),
)
"""Functions that return a class: a nested one, and those of cloudpickle and dill."""

_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}

_MOST_CLASSES = 2_000  # a class takes a kilobyte: past this many names they share one


class Placeholders:
    """Hands out a class of `Placeholder` for each foreign name of one pickle."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def of(self, module: str, name: str) -> Any:
        """Return what stands for a name; a RefusedError where it can only do harm."""
        origin = f"{module}.{name}"
        if _HARMFUL.fullmatch(origin):
            raise RefusedError(
                f"refused: it names {origin}, which weights have no use for: loaded by other "
                "programs, this file may run a command. Nothing of it was run; do not use it"
            )
        if origin not in self.by_name and len(self.by_name) >= _MOST_CLASSES:
            return Placeholder
        if origin not in self.by_name:
            kind = type("Placeholder", (Placeholder,), {"__slots__": (), "origin": origin})
            gives = name.rpartition(".")[2] in _GIVE_A_CLASS
            self.by_name[origin] = stand_in(lambda *_, **__: kind) if gives else kind
        return self.by_name[origin]


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

    def __init__(self, stream: BinaryIO, *, encoding: str, errors: str = "strict") -> None:
        begin = stream.tell()
        for name in _instructions(stream):
            if self.needed is not None and name not in self.needed:
                raise RefusedError(f"refused: {self.only} do not need its instruction {name}")
        stream.seek(begin)
        super().__init__(stream, encoding=encoding, errors=errors)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        known = (module, name) in self.allowed
        return self.allowed[module, name] if known else self.foreign(module, name)

    def foreign(self, module: str, name: str) -> Any:
        """Refuse a name that is not in `allowed`; a subclass may return a placeholder."""
        raise RefusedError(f"refused: it names {module}.{name}, and only {self.only} are allowed")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies outside the pickle."""
        raise RefusedError("refused: it refers to something outside of it")


def _instructions(stream: BinaryIO) -> Iterator[str]:
    """Yield the name of each instruction of a pickle, without running any.

    The C unpickler takes memory for as many values as the highest number says, so that ten bytes
    could ask for 34 GB: a number past the count of instructions is an error. So are keys that
    would take for ever to hash.
    """
    stack = _Stack()
    for count, (instruction, argument) in enumerate(_opcodes(stream), start=1):
        if instruction.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise ValueError(f"it keeps its value number {argument}, and has {count} at most")
        try:
            stack.step(instruction, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"{instruction.name}, instruction {count}, has no value") from error
        yield instruction.name


def _opcodes(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """`pickletools.genops`, which reads Python 2's text of protocol 0 as ASCII: images are not."""
    while code := stream.read(1):
        if (instruction := _OPCODES.get(code)) is None:
            raise ValueError(f"{code!r} is no instruction")
        read = instruction.arg.reader if instruction.arg else lambda _: None
        yield instruction, stream.readline() if instruction.name == "STRING" else read(stream)
        if instruction.name == "STOP":
            return
    raise ValueError("pickle exhausted before its STOP")


_MOST_HASHED, _DEEPEST_KEY = 10_000_000, 100
_Size = tuple[int, int]
_ONE: _Size = (1, 0)


class _Stack:
    """The sizes of the values on a pickle's stack: (values that a hash visits, depth of tuples).

    A hundred tuples, each of the one before it twice, are 2**100 values to hash, and a million
    nested ones overflow C's stack: both would be met where a key is set.
    """

    def __init__(self) -> None:
        self.values: list[_Size | None] = []  # None is a mark
        self.memo: dict[int, _Size] = {}
        self.hashed = 0

    def step(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow one instruction."""
        name = instruction.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(self.memo) if name == "MEMOIZE" else int(argument)
            self.memo[number] = self.values[-1] or _ONE
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.values.append(self.memo[int(argument)])
        elif name == "MARK":
            self.values.append(None)
        elif name == "DUP":
            self.values.append(self.values[-1])
        elif name == "POP":
            self.values.pop()
        else:
            items = self._taken(instruction.stack_before)
            self._hash(name, items)
            made = [_ONE] * len(instruction.stack_after)
            if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                depth = max((depth for _, depth in items), default=0)
                count = 1 + sum(count for count, _ in items)
                made = [(min(count, _MOST_HASHED + 1), 1 + depth)]
            self.values.extend(made)

    def _taken(self, before: list[pickletools.StackObject]) -> list[_Size]:
        """Take an instruction's values from the stack; return those that it puts into another."""
        fixed = len(before)
        items: list[_Size] = []
        if pickletools.markobject in before:
            fixed = before.index(pickletools.markobject)
            while (value := self.values.pop()) is not None:
                items.append(value)
            items.reverse()
        taken = [self.values.pop() or _ONE for _ in range(fixed)][::-1]
        return items if fixed < len(before) else taken

    def _hash(self, name: str, items: list[_Size]) -> None:
        """Count the values that an instruction hashes."""
        keys: list[_Size] = []
        if name == "SETITEM":
            keys = items[1:2]
        elif name in ("SETITEMS", "DICT"):
            keys = items[::2]
        elif name in ("ADDITEMS", "FROZENSET"):
            keys = items
        self.hashed += sum(count for count, _ in keys)
        deepest = max((depth for _, depth in keys), default=0)
        if self.hashed > _MOST_HASHED or deepest > _DEEPEST_KEY:
            raise ValueError("a key of tuples within tuples, too large to be one")


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
_KINDS = re.compile(r"b1|[ui][1248]|S[1-9]\d{0,8}")


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
        self.value = _array(content, kind, shape)
        if by_columns and self.value.size != max(shape, default=1):
            raise RefusedError("an array that is stored by columns")


@stand_in
def _make_kind(code: Any, *_: Any) -> _Kind:
    if not isinstance(_text(code), str) or not _KINDS.fullmatch(_text(code)):
        raise RefusedError(f"arrays of {code!r}")
    return _Kind(str(_text(code)))


@stand_in
def _make_array(*_: Any) -> _Array:
    return _Array()


@stand_in
def _make_flat(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Stands for `numpy._core.numeric._frombuffer`, which protocol 5 calls."""
    array = _Array()
    array.__setstate__((1, shape, kind, _text(order) == "F", content))
    return array


@stand_in
def _make_scalar(kind: Any, content: Any) -> Any:
    return _array(content, kind, ()).item()


@stand_in
def _make_bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes for Python 2.

    And for `bytes` and `bytearray`.
    """
    if isinstance(text, bytes):  # so a bytearray is written by protocols 3 and 4
        return text
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
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
        ("__builtin__", "bytearray"): _make_bytes,
        ("builtins", "bytearray"): _make_bytes,
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
