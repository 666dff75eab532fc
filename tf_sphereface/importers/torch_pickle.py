"""Read the tensors of a PyTorch checkpoint, safely and without PyTorch.

A checkpoint is a pickle, and a pickle is a program: unpickling a file from a stranger can run any
command. Here it may only build tensors, dictionaries and plain values; for whatever else it names
stands a placeholder, and nothing is imported or called.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

import numpy as np

from tf_sphereface.importers.file_formats import FormatError, refuse_other_formats
from tf_sphereface.utils.safe_pickle import (
    Placeholder,
    Placeholders,
    RefusedError,
    RestrictedUnpickler,
    stand_in,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_STORAGES: dict[str, str] = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
    # of quantized tensors, and of types that have no storage class: only skipped
    "QInt8Storage": "i1",
    "QUInt8Storage": "u1",
    "QInt32Storage": "i4",
    "UntypedStorage": "u1",
}

_LARGEST_PICKLE = 1 << 28  # bytes: a pickle holds no weights, only what describes them


class TorchCheckpoint:
    """A file of `torch.save`: its tree of values now, its numbers when they are asked for.

    Tensors in it are `Tensor`s, dictionaries are dictionaries, and what is of a class that is not
    known here is a `Placeholder`.

    Args:
        path: the file, of the zip format or the legacy one.

    Raises:
        ValueError: not such a file, truncated, inconsistent, or one that would run a command; the
            message names the file and says what it is, as far as that is known.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._byteorder: Literal["<", ">"] = "<"
        self._prefix: str | None = None  # of the members of a zip archive
        with _errors_of(self.path):
            refuse_other_formats(self.path, "PyTorch checkpoint")
            if zipfile.is_zipfile(self.path):
                self.content = self._open_zip()
            else:
                self.content = self._open_legacy()

    def arrays(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Read tensors of this file into arrays. bfloat16 becomes float32, other types stay."""
        storages = {id(tensor.storage): tensor.storage for tensor in tensors.values()}
        with _errors_of(self.path), self._storage_reader() as read:
            numbers = {key: storage.numbers(read(storage)) for key, storage in storages.items()}
            return {
                name: tensor.view(numbers[id(tensor.storage)]) for name, tensor in tensors.items()
            }

    @contextlib.contextmanager
    def _storage_reader(self) -> Iterator[Callable[[_Storage], np.ndarray]]:
        """Yield what reads a storage's numbers as they are stored."""

        def array(storage: _Storage, data: bytes) -> np.ndarray:
            return np.frombuffer(data, np.dtype(_STORAGES[storage.kind]).newbyteorder(order))

        order = self._byteorder
        if self._prefix is None:
            with self.path.open("rb") as stream:

                def read(storage: _Storage) -> np.ndarray:
                    stream.seek(storage.begin)
                    return array(storage, stream.read(storage.nbytes))

                yield read
        else:
            with zipfile.ZipFile(self.path) as archive:
                prefix = self._prefix
                yield lambda storage: array(storage, archive.read(f"{prefix}data/{storage.name}"))

    def _open_zip(self) -> Any:
        """Read `NAME/data.pkl` of an archive, and look at the storages `NAME/data/KEY`."""
        with zipfile.ZipFile(self.path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            (found,) = (name for name in sizes if name.split("/")[-1] == "data.pkl")
            self._prefix = prefix = found.removesuffix("data.pkl")
            if f"{prefix}byteorder" in sizes:
                self._byteorder = ">" if archive.read(f"{prefix}byteorder") == b"big" else "<"
            storages = _Storages()
            if sizes[found] > _LARGEST_PICKLE:
                raise _FileError(f"its {found} would be {sizes[found]:,} bytes")
            stream = io.BytesIO(archive.read(found))
        content = _Unpickler(stream, storages.request).load()
        for name, storage in storages.items():
            if sizes.get(f"{prefix}data/{name}") != storage.nbytes:
                raise _FileError(f"storage {name} is missing or has the wrong length")
        return content

    def _open_legacy(self) -> Any:
        """Read magic number, protocol, system, object and storage keys; find the raw storages."""

        def refuse(*_: Any) -> _Storage:
            raise _FileError("a storage before the tensors")

        def plain() -> Any:
            return _Unpickler(stream, refuse).load()

        file_size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            magic = plain()
            if magic != LEGACY_MAGIC:
                paddle = isinstance(magic, dict) and "StructuredToParameterName@@" in magic
                raise _FileError(
                    f"not a PyTorch checkpoint: the magic number is missing. It is a pickle of "
                    f"{'PaddlePaddle' if paddle else 'Python alone'}; load it there, then save "
                    "its tensors as a dictionary by torch.save"
                )
            protocol = plain()
            if protocol != LEGACY_PROTOCOL:
                raise _FileError(f"unknown format version {protocol!r}, expected {LEGACY_PROTOCOL}")
            self._byteorder = "<" if plain().get("little_endian", True) else ">"
            storages = _Storages()
            content = _Unpickler(stream, storages.request).load()
            keys = plain()
            if sorted(keys) != sorted(storages):
                raise _FileError("the list of storages does not match the tensors")
            for name in keys:
                storage = storages[name]
                (count,) = struct.unpack(self._byteorder + "q", stream.read(8))
                storage.begin = stream.tell()
                if count != storage.count or storage.nbytes > file_size - storage.begin:
                    raise _FileError(
                        f"storage {name} is truncated or has the wrong length: half a download?"
                    )
                stream.seek(storage.nbytes, os.SEEK_CUR)
        return content


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Name the file in every error of its content."""
    try:
        yield
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except (OSError, FormatError):
        raise
    except Exception as error:  # a broken pickle fails in as many ways as there are opcodes
        ends = isinstance(error, EOFError | struct.error) or _ENDS.search(str(error))
        advice = ". The file ends too early: download it again" if ends else ""
        raise ValueError(
            f"{path}: not a PyTorch checkpoint, or a damaged one "
            f"({type(error).__name__}: {str(error)[:200]}){advice}"
        ) from error


_ENDS = re.compile("truncated|exhausted|remain|not enough data")


class _FileError(RefusedError):
    """A fault of the content; the caller adds the file's name."""


class _Storage:
    """A flat run of numbers in the file."""

    __slots__ = ("begin", "count", "kind", "name")

    def __init__(self, kind: str, name: str, count: int) -> None:
        self.kind, self.name, self.count = kind, name, count
        self.begin = 0  # where a legacy file has it

    def numbers(self, stored: np.ndarray) -> np.ndarray:
        """Return stored numbers in this machine's byte order, bfloat16 as float32."""
        if self.kind == "BFloat16Storage":  # the upper half of a float32
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(stored.dtype.newbyteorder("="), copy=False)

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(_STORAGES[self.kind]).itemsize


class Tensor(NamedTuple):
    """A strided view of a storage; the numbers come when they are asked for."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, _: Any) -> None:
        """Ignore what PyTorch before 0.4 says of a parameter after it."""

    def view(self, values: np.ndarray) -> np.ndarray:
        """Return a contiguous copy; refuse a view that leaves its storage or repeats elements."""
        size = int(np.prod(self.shape, dtype=object)) if self.shape else 1
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if size > values.size or (size and last >= values.size):
            raise _FileError(f"a tensor of shape {self.shape} does not fit its storage")
        if size == 0:
            return np.zeros(self.shape, values.dtype)
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)
        return view.copy()


class _Dictionary(dict[Any, Any]):
    """Stands for `collections.OrderedDict` and `defaultdict`; a pickle cannot set attributes."""

    __slots__ = ()

    def __init__(self, items: Any = ()) -> None:
        pairs = items if isinstance(items, list | tuple) else ()
        super().__init__((key, value) for key, value in pairs if isinstance(key, str | int))

    def __setstate__(self, _: Any) -> None:
        """Ignore attributes, such as a state dictionary's `_metadata`."""


@stand_in
def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Any:
    """Stands for `torch._utils._rebuild_tensor_v2`, and its name before PyTorch 0.4."""
    if isinstance(storage, Placeholder) or any(others[2:]):  # such as a negative bit
        return Placeholder(storage)
    if isinstance(storage, _StorageView):
        storage, offset = storage.storage, storage.offset + offset
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(strides)
        or not all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise _FileError("a tensor is described wrongly")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


@stand_in
def _first(data: Any = None, *_: Any) -> Any:
    """Stands for `torch._utils._rebuild_parameter` and the like: gives the tensor it wraps."""
    return data


@stand_in
def _rebuild_from_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Stands for `torch._tensor._rebuild_from_type_v2`: tensors that have attributes."""
    known = function is _rebuild or function is _first
    return function(*arguments) if known else Placeholder(function, arguments)


@stand_in
def _make_defaultdict(*_: Any) -> _Dictionary:
    return _Dictionary()


class _StorageView(NamedTuple):
    """A part of a storage, as PyTorch before 0.4 saved some."""

    storage: _Storage
    offset: int


class _Kind(str):
    """Stands for a storage class such as `torch.FloatStorage`, by name."""

    __slots__ = ()


class _Unpickler(RestrictedUnpickler):
    """Unpickles tensors, dictionaries and plain values; all else becomes placeholders."""

    only = "tensors and plain values"
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): _Dictionary,
        ("collections", "defaultdict"): _make_defaultdict,
        ("torch._utils", "_rebuild_tensor"): _rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("torch.nn.parameter", "Parameter"): _first,
        ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
        ("torch._tensor", "_rebuild_from_type"): _rebuild_from_type,
        ("torch.tensor", "_rebuild_from_type"): _rebuild_from_type,
        **{("torch", kind): _Kind(kind) for kind in _STORAGES},
        **{("torch.storage", kind): _Kind(kind) for kind in _STORAGES},
    }

    def __init__(self, stream: BinaryIO, load: Callable[[str, str, int], _Storage]) -> None:
        super().__init__(stream, encoding="utf-8", errors="surrogateescape")
        self._load = load
        self._placeholders = Placeholders()

    def foreign(self, module: str, name: str) -> Any:
        """Return a placeholder, so that a harmless value does not stand in the way."""
        return self._placeholders.of(module, name)

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _Kind() as kind, str() as name, _, int() as count, *view) if (
                count >= 0 and len(view) <= 1
            ):
                storage = self._load(str(kind), name, count)
                match view:
                    case [(_, int() as offset, int())]:
                        return _StorageView(storage, offset)
                    case [] | [None]:
                        return storage
            case ("module", kind, *_):  # a whole network in the legacy format
                return kind
        kind = pid[1] if isinstance(pid, tuple) and len(pid) > 1 else pid
        raise _FileError(f"unknown kind of storage: {str(getattr(kind, 'origin', kind))[:200]}")


class _Storages(dict[str, _Storage]):
    """The storages that a pickle asks for, by key; several tensors may share one."""

    def request(self, kind: str, name: str, count: int) -> _Storage:
        storage = self.setdefault(name, _Storage(kind, name, count))
        if (storage.kind, storage.count) != (kind, count):
            raise _FileError(f"storage {name} is described in two ways")
        return storage
