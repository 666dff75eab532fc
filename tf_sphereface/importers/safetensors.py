"""Tensors of a safetensors file: a header of JSON, then the numbers. Nothing in it can be run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}
_METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000  # bytes, as the format's own library has it


class StoredTensor(NamedTuple):
    """Where a tensor's numbers are in the file."""

    shape: tuple[int, ...]
    type: str  # such as "F32"
    begin: int
    nbytes: int


class SafetensorsFile:
    """A safetensors file: names, shapes and types now, numbers when they are asked for.

    Every length and offset is checked before it is believed.

    Args:
        path: the file.

    Raises:
        ValueError: not such a file, truncated or inconsistent; the message names the file.
        OSError: the file cannot be read.

    Example:

    >>> text = b'{"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    >>> numbers = np.array([1, 2], "<f4").tobytes()
    >>> _ = Path("two.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    >>> file = SafetensorsFile("two.safetensors")
    >>> file.arrays(file.tensors)["bias"].tolist()
    [1.0, 2.0]

    Source: the format is that of https://github.com/huggingface/safetensors.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise self._error(f"its header would be {length:,} bytes")
            header = stream.read(length)
        try:
            described = json.loads(header, object_pairs_hook=_without_doubles)
            if not isinstance(described, dict):
                raise ValueError("it is no dictionary")
        except (ValueError, RecursionError) as error:
            raise self._error(f"its header cannot be read: {str(error)[:200]}") from error
        texts = described.pop(_METADATA, None)
        self.metadata = texts if isinstance(texts, dict) else {}
        begin, end = 8 + length, 0
        self.tensors: dict[str, StoredTensor] = {}
        for name, facts in described.items():
            tensor = self._tensor(name, facts, begin)
            self.tensors[name] = tensor
            end = max(end, tensor.begin + tensor.nbytes)
        if end > size:
            missing = end - size
            raise self._error(f"{missing:,} bytes are missing at its end; download it again")

    def arrays(self, tensors: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
        """Read tensors of this file into arrays. bfloat16 becomes float32, other types stay."""
        arrays = {}
        with self.path.open("rb") as stream:
            for name, tensor in tensors.items():
                stream.seek(tensor.begin)
                stored = np.frombuffer(stream.read(tensor.nbytes), _TYPES[tensor.type])
                if tensor.type == "BF16":  # the upper half of a float32
                    stored = (stored.astype(np.uint32) << 16).view(np.float32)
                native = stored.dtype.newbyteorder("=")
                arrays[name] = stored.astype(native).reshape(tensor.shape)
        return arrays

    def _tensor(self, name: str, facts: Any, begin: int) -> StoredTensor:
        """Check what the header says of a tensor."""
        match facts:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [first, last]} if all(
                type(number) is int and number >= 0 for number in (*shape, first, last)
            ):
                pass
            case _:
                raise self._error(f"tensor {name[:80]!r} is described wrongly")
        if kind not in _TYPES:
            raise self._error(f"tensor {name[:80]!r} is of type {kind[:20]}, which is not read")
        nbytes = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if last - first != nbytes:
            raise self._error(f"tensor {name[:80]!r} has {last - first:,} bytes, not {nbytes:,}")
        return StoredTensor(tuple(shape), kind, begin + first, nbytes)

    def _error(self, text: str) -> ValueError:
        return ValueError(f"{self.path}: not a safetensors file, or a damaged one: {text}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name comes twice")
    return names
