"""Weights of the released SphereFace networks, from PyTorch and from Caffe, into ours."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.backbones.sphereface import CHANNELS, UNITS, SphereFaceNet
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.caffemodel import read_caffemodel
from tf_sphereface.importers.image_size import sizes_of
from tf_sphereface.importers.state_dictionaries import (
    Layout,
    Loaded,
    describe_extra,
    load_layout,
)
from tf_sphereface.utils.checks import check_choice

RELEASED_64 = (3, 7, 16, 3)
"""Residual units of the authors' 64-layer file; their table has eight in the second stage."""

_BODY = re.compile(r"(conv|relu)\d|fc5\b")


def load_sphere20a(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    input_size: Sequence[int] | None = None,
) -> Loaded:
    """Build a 20-layer `SphereFaceNet` with the weights of the public PyTorch `sphere20a`.

    The tensors are `conv{1..4}_{i}.weight/bias`, `relu{1..4}_{i}.weight` and `fc5.weight/bias`,
    with any prefix and anywhere in the file; a head such as `fc6.weight` is left out. The network
    wants its channels as BGR: the implementation that the weights come from reads images with
    OpenCV and leaves them so.

    Args:
        path: the checkpoint, zip or legacy; see `read_torch_checkpoint`.
        key: the entry or prefix of the weights; only needed where two sets of them fit.
        input_size: (height, width); by default what `fc5` tells, 112x96 or 112x112.

    Raises:
        ValueError: the file is no checkpoint, or tensors are missing, unknown, of another shape or
            not finite; the message lists them.
        OSError: the file cannot be read.

    Example:

    ```python
    model, left_out = load_sphere20a("sphere20a.pth")
    print(left_out)  # the head, class centres of the training set
    ```
    """
    return load_layout(path, SPHERE20A, key=key, input_size=input_size)


def _build_sphere20a(
    tensors: Mapping[str, np.ndarray], input_size: Sequence[int] | None
) -> keras.Model:
    network = functools.partial(SphereFaceNet, 20, unit_bias=True)
    return _build(tensors, network, input_size=input_size, name=SPHERE20A.network)


SPHERE20A = Layout(
    "sphere20a (PyTorch)",
    frozenset(
        f"{name}.{kind}"
        for stage, count in enumerate(UNITS[20], start=1)
        for index in range(1, 2 * count + 2)
        for name, kind in (
            (f"conv{stage}_{index}", "weight"),
            (f"conv{stage}_{index}", "bias"),
            (f"relu{stage}_{index}", "weight"),
        )
    )
    | {"fc5.weight", "fc5.bias"},
    _BODY,
    _build_sphere20a,
    frozenset({"conv3_9.weight", "conv4_3.weight"}),
)


def load_sphereface_caffe(
    path: str | os.PathLike[str], depth: int = 20, *, input_size: Sequence[int] | None = None
) -> Loaded:
    """Build a `SphereFaceNet` with the weights of the authors' `.caffemodel`.

    The layers are `conv{1..4}_{i}`, `relu{1..4}_{i}`, `fc5` and, if the head is there, `fc6`, which
    is left out. The authors froze the biases of the residual units at zero: where they are all zero
    they are left out too. The network wants its channels as BGR.

    Args:
        path: the file; see `read_caffemodel`.
        depth: 20 or 64. The released file of 64 layers has 3, 7, 16 and 3 units in its stages, the
            paper's table 3, 8, 16 and 3: the file's layers decide.
        input_size: (height, width); by default what `fc5` tells, 112x96 or 112x112.

    Raises:
        ValueError: another depth, the file is no caffemodel, or tensors are missing, unknown, of
            another shape or not finite; the message lists them.
        OSError: the file cannot be read.

    Example:

    ```python
    model, left_out = load_sphereface_caffe("sphereface_model.caffemodel")
    ```
    """
    check_choice("depth", depth, (20, 64))
    tensors = _named(path)
    units = UNITS[depth]
    if depth == 64 and "conv2_17.weight" not in tensors:
        units = RELEASED_64
    biases = [name for name in _unit_biases(units) if name in tensors]
    used = any(np.any(tensors[name]) for name in biases)
    network = functools.partial(SphereFaceNet, depth, units=units, unit_bias=used)
    head = {key: array.shape for key, array in tensors.items() if not _BODY.match(key)}
    ignored = [*head, *(() if used else _unit_biases(units))]
    name = f"SphereFaceNet-{depth} (Caffe)"
    try:
        model = _build(tensors, network, ignored=ignored, input_size=input_size, name=name)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    left_out = [describe_extra(key, shape, model.output_shape[1]) for key, shape in head.items()]
    if biases and not used:
        left_out.append(f"{len(biases)} biases of residual units: all zero")
    return Loaded(model, left_out)


def _named(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the blobs of a caffemodel under PyTorch's names."""
    tensors = {}
    for name, layer in read_caffemodel(path).items():
        for number, blob in enumerate(layer.blobs):
            kind = ("weight", "bias")[number] if number < 2 else f"blob{number}"
            tensors[f"{name}.{kind}"] = blob
    return tensors


def _build(
    tensors: Mapping[str, np.ndarray],
    network: Callable[..., keras.Model],
    *,
    ignored: Sequence[str] = (),
    input_size: Sequence[int] | None,
    name: str,
) -> keras.Model:
    """Build the network in the size that fits the tensors, and set its weights."""
    weight = tensors.get("fc5.weight")
    if weight is not None:
        weight = _without_leading_ones(weight, 2)
    (height, width), embedding_dim = sizes_of("fc5.weight", weight, input_size, (112, 96))
    model = network(input_shape=(height, width, 3), embedding_dim=embedding_dim)
    assign_tensors(_pairs(model), tensors, _to_keras, network=name, ignored=ignored)
    remember_input(model, "bgr")
    return model


def _unit_biases(units: Sequence[int]) -> list[str]:
    """Name the biases of the convolutions in residual units."""
    return [
        f"conv{stage}_{index}.bias"
        for stage, count in enumerate(units, start=1)
        for index in range(2, 2 * count + 2)
    ]


def _pairs(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Yield each tensor's name with our variable."""
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            yield f"{layer.name}.weight", layer.kernel
            if layer.use_bias:
                yield f"{layer.name}.bias", layer.bias
        elif isinstance(layer, keras.layers.PReLU):
            yield f"{layer.name}.weight", layer.alpha


def _to_keras(name: str, tensor: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """Lay a tensor of channels-first networks out as Keras keeps it.

    A kernel (out, in, height, width) becomes (height, width, in, out), slopes (channels,) become
    (1, 1, channels). `fc5` reads the last map flattened as channel, row, column, ours as row,
    column, channel: its (out, channels * height * width) becomes (height * width * channels, out).
    """
    if variable.path.endswith("alpha"):
        tensor = _without_leading_ones(tensor, 1)
        return tensor.reshape(1, 1, -1) if tensor.ndim == 1 else tensor
    if name.startswith("conv") and tensor.ndim == 4 and name.endswith("weight"):
        return tensor.transpose(2, 3, 1, 0)
    if name == "fc5.weight":
        tensor = _without_leading_ones(tensor, 2)
        if tensor.ndim != 2 or tensor.shape[1] % CHANNELS[-1]:
            return tensor
        maps = tensor.reshape(len(tensor), CHANNELS[-1], -1)
        return maps.transpose(2, 1, 0).reshape(tensor.shape[::-1])
    return _without_leading_ones(tensor, 1)


def _without_leading_ones(tensor: np.ndarray, axes: int) -> np.ndarray:
    """Remove the axes of length 1 that Caffe's older files put first."""
    while tensor.ndim > axes and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor
