"""Read the weights of a `.caffemodel` without Caffe."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_sphereface.importers.file_formats import refuse_other_formats
from tf_sphereface.importers.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    Field,
    WireError,
    read_fields,
    read_integers,
)

# Field numbers of caffe.proto.
_NET_LAYERS_V1, _NET_LAYER = 2, 100
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_BLOB_LEGACY_SHAPE, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
_SHAPE_DIM = 1
_MOST_AXES = 32  # as Caffe's own kMaxBlobAxes


class CaffeLayer(NamedTuple):
    """A layer that has weights.

    Attributes:
        type: such as `"Convolution"`.
        blobs: float32 arrays (float64 where Caffe wrote doubles), read-only views of the file.
    """

    type: str
    blobs: list[np.ndarray]


def read_caffemodel(path: str | os.PathLike[str]) -> dict[str, CaffeLayer]:
    """Read the layers of a `.caffemodel` that have weights.

    The file is mapped into memory, not read: the arrays are views of it, and pages come in when
    they are used. Nothing in the file is run. Lengths are checked before they are believed.

    Args:
        path: the file, as Caffe's `Net::ToProto` and its snapshots write it.

    Returns:
        `{name: layer}` in the order of the file.

    Raises:
        ValueError: not such a file, truncated or inconsistent, or of the format of 2014 (`layers`
            instead of `layer`); the message names the file.
        OSError: the file cannot be read.

    Example:

    ```python
    layers = read_caffemodel("sphereface_model.caffemodel")
    print(layers["conv1_1"].blobs[0].shape)  # (64, 3, 3, 3)
    ```

    Source: the field numbers are those of Caffe's `caffe.proto`.
    """
    path = Path(path)
    if path.is_dir() or path.stat().st_size == 0:
        refuse_other_formats(path, ".caffemodel")
    layers: dict[str, CaffeLayer] = {}
    try:
        data = np.memmap(path, np.uint8, "r").data
        for field in read_fields(data):
            if field.number == _NET_LAYERS_V1 and field.wire == BYTES:
                raise _OldFormatError
            if field.number == _NET_LAYER:
                name, layer = _read_layer(field.message())
                if not layer.blobs:
                    continue
                if name in layers:
                    raise WireError(f"two layers are named {name!r}")
                layers[name] = layer
        if not layers:
            raise WireError("it holds no layer with weights")
    except _OldFormatError:
        refuse_other_formats(path, ".caffemodel")
        raise ValueError(
            f"{path}: written in Caffe's format of 2014 (`layers`), which knows no PReLU and so "
            "cannot hold these networks; Caffe's upgrade_net_proto_binary OLD NEW converts others"
        ) from None
    except WireError as error:
        refuse_other_formats(path, ".caffemodel")
        raise ValueError(f"{path}: not a .caffemodel, or a damaged one: {error}") from error
    return layers


class _OldFormatError(Exception):
    """The file has `layers`, of type V1LayerParameter."""


def _read_layer(data: memoryview) -> tuple[str, CaffeLayer]:
    name, kind, blobs = "", "", []
    for field in read_fields(data):
        if field.number == _LAYER_NAME:
            name = field.text()
        elif field.number == _LAYER_TYPE:
            kind = field.text()
        elif field.number == _LAYER_BLOBS:
            try:
                blobs.append(_read_blob(field.message()))
            except WireError as error:
                raise WireError(f"blob {len(blobs)} of layer {name!r}: {error}") from error
    return name, CaffeLayer(kind, blobs)


def _read_blob(data: memoryview) -> np.ndarray:
    """Return a blob's values in their shape; the older four fields for it are understood too."""
    shape: list[int] | None = None
    legacy: dict[int, int] = {}
    pieces: dict[int, list[np.ndarray]] = {_BLOB_DATA: [], _BLOB_DOUBLES: []}
    for field in read_fields(data):
        if field.number == _BLOB_SHAPE:
            shape = []
            for inner in read_fields(field.message()):
                if inner.number == _SHAPE_DIM:
                    shape += read_integers(inner)
        elif field.number in _BLOB_LEGACY_SHAPE and isinstance(field.value, int):
            legacy[field.number] = field.value
        elif field.number == _BLOB_DATA:
            pieces[_BLOB_DATA].append(_numbers(field, "<f4", FIXED32))
        elif field.number == _BLOB_DOUBLES:
            pieces[_BLOB_DOUBLES].append(_numbers(field, "<f8", FIXED64))
    found = pieces[_BLOB_DATA] or pieces[_BLOB_DOUBLES] or [np.zeros(0, np.float32)]
    values = found[0] if len(found) == 1 else np.concatenate(found)
    if shape is None and legacy:
        shape = [legacy.get(number, 0) for number in _BLOB_LEGACY_SHAPE]
    if shape is None:
        shape = [len(values)]
    if (
        len(shape) > _MOST_AXES
        or math.prod(shape) != len(values)
        or any(axis > max(1, len(values)) for axis in shape)
    ):
        axes = "x".join(map(str, shape[:_MOST_AXES]))
        raise WireError(f"{len(values):,} values for the shape {axes}")
    return values.reshape(shape)


def _numbers(field: Field, dtype: str, single: int) -> np.ndarray:
    """Return packed numbers, or the one number of a field that is not packed."""
    width = np.dtype(dtype).itemsize
    if isinstance(field.value, int) or field.wire not in (BYTES, single):
        raise WireError(f"field {field.number} has wire type {field.wire}")
    if len(field.value) % width:
        raise WireError(f"{len(field.value):,} bytes are no whole number of {width}-byte values")
    return np.frombuffer(field.value, dtype)
