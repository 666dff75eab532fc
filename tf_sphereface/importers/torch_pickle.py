"""Read the tensors of a PyTorch checkpoint, safely and without PyTorch.

A checkpoint is a pickle, and a pickle is a program: unpickling a file from a stranger can run any
command. Here it may only build tensors, dictionaries and plain values; whatever else it names is
refused before it is imported.
"""

from __future__ import annotations

import collections
import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

import numpy as np

from tf_sphereface.utils.safe_pickle import RefusedError, RestrictedUnpickler, stand_in

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
}


def read_torch_checkpoint(
    path: str | os.PathLike[str], *, key: str | None = None
) -> dict[str, np.ndarray]:
    """Read the state dictionary in a PyTorch checkpoint (`.pt`, `.pth`, `.ckpt`).

    Both formats of `torch.save` are read: the legacy pickle stream and the zip archive. The prefix
    `module.` of `DataParallel` is removed when every name has it.

    Args:
        path: the checkpoint.
        key: the entry that holds the state dictionary, such as `"net_state_dict"`. Default: the
            whole file if it is one, else the only entry that is one.

    Returns:
        `{name: array}` in the order of the file. bfloat16 becomes float32, other types stay.

    Raises:
        ValueError: not a checkpoint, truncated, inconsistent, it names something other than
            tensors and plain values, or it holds no or several state dictionaries; the message
            names the file.
        OSError: the file cannot be read.

    Example:

    >>> tensors = read_torch_checkpoint("mobilefacenet.ckpt")     # doctest: +SKIP
    >>> tensors["conv1.conv.weight"].shape                        # doctest: +SKIP
    (64, 3, 3, 3)

    Source: the formats are those of `torch/serialization.py`.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            content = _read_zip(path)
        else:
            with path.open("rb") as stream:
                content = _read_legacy(stream, path.stat().st_size)
        tensors = _state_dictionary(content, key)
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError:
        raise
    except Exception as error:  # a broken pickle fails in as many ways as there are opcodes
        raise ValueError(
            f"{path}: not a PyTorch checkpoint, or a damaged one ({type(error).__name__}: {error})"
        ) from error
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return tensors


class _FileError(RefusedError):
    """A fault of the content; the caller adds the file's name."""


class _Storage:
    """A flat run of numbers, which a legacy file delivers only after the pickle."""

    __slots__ = ("array", "count", "kind")

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = kind, count
        self.array: np.ndarray | None = None

    def fill(self, data: bytes, byteorder: Literal["<", ">"]) -> None:
        """Take the raw bytes, little (`"<"`) or big endian."""
        array = np.frombuffer(data, np.dtype(_STORAGES[self.kind]).newbyteorder(byteorder))
        if self.kind == "BFloat16Storage":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        self.array = array.astype(array.dtype.newbyteorder("="))

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(_STORAGES[self.kind]).itemsize


class _Tensor(NamedTuple):
    """A strided view of a storage, made into an array when the storage is there."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Return a contiguous copy; refuse a view that leaves its storage or repeats elements."""
        values = self.storage.array
        size = int(np.prod(self.shape, dtype=object)) if self.shape else 1
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if values is None or size > values.size or (size and last >= values.size):
            raise _FileError(f"a tensor of shape {self.shape} does not fit its storage")
        if size == 0:
            return np.zeros(self.shape, values.dtype)
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)
        return view.copy()


@stand_in
def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`, and its name before PyTorch 0.4."""
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(strides)
        or not all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise _FileError("a tensor is described wrongly")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


@stand_in
def _parameter(data: Any, *_: Any) -> Any:
    """Stands for `torch._utils._rebuild_parameter`: gives the tensor that it wraps."""
    return data


class _Kind(str):
    """Stands for a storage class such as `torch.FloatStorage`, by name."""

    __slots__ = ()


class _Unpickler(RestrictedUnpickler):
    """Unpickles tensors, dictionaries and plain values, and refuses everything else."""

    only = "tensors and plain values"
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        **{("torch", kind): _Kind(kind) for kind in _STORAGES},
    }

    def __init__(self, stream: BinaryIO, load: Callable[[tuple[Any, ...]], _Storage]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load = load

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Kind() as kind, str() as name, _, int() as count, *view) if (
                count >= 0 and view in ([], [None])
            ):
                return self._load((str(kind), name, count))
        raise _FileError(f"unknown kind of storage: {pid!r}")


class _Storages(dict[str, _Storage]):
    """The storages that a pickle asks for, by key; several tensors may share one."""

    def request(self, description: tuple[str, str, int]) -> _Storage:
        kind, name, count = description
        storage = self.setdefault(name, _Storage(kind, count))
        if (storage.kind, storage.count) != (kind, count):
            raise _FileError(f"storage {name} is described in two ways")
        return storage


def _read_legacy(stream: BinaryIO, file_size: int) -> Any:
    """Read magic number, protocol, system, object and storage keys, then the raw storages."""

    def refuse(_: Any) -> _Storage:
        raise _FileError("a storage before the tensors")

    def plain() -> Any:
        return _Unpickler(stream, refuse).load()

    if plain() != LEGACY_MAGIC:
        raise _FileError("not a PyTorch checkpoint: the magic number is missing")
    protocol = plain()
    if protocol != LEGACY_PROTOCOL:
        raise _FileError(f"unknown format version {protocol!r}, expected {LEGACY_PROTOCOL}")
    byteorder: Literal["<", ">"] = "<" if plain().get("little_endian", True) else ">"
    storages = _Storages()
    content = _Unpickler(stream, storages.request).load()
    keys = plain()
    if sorted(keys) != sorted(storages):
        raise _FileError("the list of storages does not match the tensors")
    for name in keys:
        storage = storages[name]
        (count,) = struct.unpack(byteorder + "q", stream.read(8))
        if count != storage.count or storage.nbytes > file_size - stream.tell():
            raise _FileError(f"storage {name} is truncated or has the wrong length")
        storage.fill(stream.read(storage.nbytes), byteorder)
    return content


def _read_zip(path: Path) -> Any:
    """Read `NAME/data.pkl` and the storages `NAME/data/KEY` of an archive."""
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise _FileError("a zip archive, but not a PyTorch checkpoint: no data.pkl")
        prefix = found[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in archive.namelist():
            raise _FileError("a TorchScript program; save its state_dict() instead")
        byteorder: Literal["<", ">"] = "<"
        if f"{prefix}byteorder" in archive.namelist():
            byteorder = ">" if archive.read(f"{prefix}byteorder") == b"big" else "<"
        storages = _Storages()
        stream = io.BytesIO(archive.read(found[0]))
        content = _Unpickler(stream, storages.request).load()
        for name, storage in storages.items():
            member = f"{prefix}data/{name}"
            if archive.getinfo(member).file_size != storage.nbytes:
                raise _FileError(f"storage {name} has the wrong length")
            storage.fill(archive.read(member), byteorder)
    return content


def _state_dictionary(content: Any, key: str | None) -> dict[str, np.ndarray]:
    """Choose the state dictionary in a checkpoint and make arrays of its tensors."""
    if not isinstance(content, Mapping):
        raise _FileError(f"expected a dictionary of tensors. Received: {type(content).__name__}")
    candidates = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Mapping) and _is_state(value)
    }
    if key is not None:
        if key not in candidates:
            known = ", ".join(map(repr, candidates)) or "none"
            raise _FileError(f"no state dictionary under {key!r}; there is {known}")
        chosen = candidates[key]
    elif _is_state(content):
        chosen = content
    elif len(candidates) == 1:
        (chosen,) = candidates.values()
    else:
        known = ", ".join(map(repr, candidates or content)) or "nothing"
        count = "several state dictionaries" if candidates else "no state dictionary"
        raise _FileError(f"{count}; choose one with `key`. It holds {known}")
    return {name: value.array() for name, value in chosen.items()}


def _is_state(value: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is of names to tensors."""
    return bool(value) and all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in value.items()
    )
