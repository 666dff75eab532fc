"""Weights of the PyTorch IResNets of arcface_torch into ours."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.backbones.iresnet import CHANNELS, UNITS, IResNet
from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.image_size import sizes_of
from tf_sphereface.importers.state_dictionaries import Layout

_NORMALIZATION = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_EPSILON = 1e-5
_BODY = re.compile(r"(layer\d|conv\d|bn\d|prelu\b|fc\.(weight|bias)$|features\b)")


def _build(
    depth: int, tensors: Mapping[str, np.ndarray], input_size: Sequence[int] | None
) -> keras.Model:
    """Build the network in the size that `fc.weight` tells, and set its weights."""
    size, embedding_dim = sizes_of("fc.weight", tensors.get("fc.weight"), input_size, (112, 112))
    model = IResNet(depth, (*size, 3), embedding_dim)
    pairs = [
        (name, getattr(model.get_layer(layer), attribute))
        for name, layer, attribute in _tensors(UNITS[depth])
        if name != "features.weight"  # our layer has no scale
    ]
    assign_tensors(
        pairs,
        _with_a_scale_of_one(tensors),
        _to_keras,
        network=f"IResNet-{depth}",
        ignored=["features.weight"],
    )
    remember_input(model, "rgb", pixel_scale=127.5)
    return model


def _tensors(units: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Yield each PyTorch name with our layer and its variable's name."""
    for name in _layers(units):
        layer = name.replace(".", "_")
        last = name.rsplit(".", 1)[-1]
        if last.startswith("bn") or last in ("features", "1"):
            for theirs, ours in _NORMALIZATION.items():
                yield f"{name}.{theirs}", layer, ours
        elif last == "prelu":
            yield f"{name}.weight", layer, "alpha"
        else:
            yield f"{name}.weight", layer, "kernel"
    yield "fc.bias", "fc", "bias"


def _layers(units: Sequence[int]) -> Iterator[str]:
    """Yield the PyTorch names of the layers that have tensors."""
    yield from ("conv1", "bn1", "prelu")
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            for part in ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3"):
                yield f"{name}.{part}"
            if unit == 0:
                yield from (f"{name}.downsample.0", f"{name}.downsample.1")
    yield from ("bn2", "fc", "features")


def _with_a_scale_of_one(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return tensors whose last normalization has no scale.

    arcface_torch fixes it at 1. Where somebody has trained it, the variance takes it in:
    `(x - mean) / sqrt(var' + eps)` is `scale (x - mean) / sqrt(var + eps)`.
    """
    scale, variance = tensors.get("features.weight"), tensors.get("features.running_var")
    if scale is None or variance is None or scale.shape != variance.shape or np.all(scale == 1):
        return tensors
    if not np.all(scale > 0):
        raise ValueError("features.weight, the scale of the embedding, must be positive")
    wide = scale.astype(np.float64)
    folded = (variance + _EPSILON) / wide**2 - _EPSILON
    return {**tensors, "features.running_var": folded.astype(np.float32)}


def _to_keras(name: str, tensor: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """Lay a PyTorch tensor out as Keras keeps it.

    A kernel (out, in, height, width) becomes (height, width, in, out), slopes (channels,) become
    (1, 1, channels). `fc` reads the last map flattened as channel, row, column, ours as row,
    column, channel: its (out, channels * height * width) becomes (height * width * channels, out).
    """
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if name == "fc.weight" and tensor.ndim == 2 and tensor.shape[1] % CHANNELS[-1] == 0:
        maps = tensor.reshape(len(tensor), CHANNELS[-1], -1)
        return maps.transpose(2, 1, 0).reshape(tensor.shape[::-1])
    if tensor.ndim == 1 and variable.path.endswith("alpha"):
        return tensor.reshape(1, 1, -1)
    return tensor


LAYOUTS = {
    depth: Layout(
        f"IResNet-{depth}",
        frozenset(name for name, _, _ in _tensors(units)),
        _BODY,
        functools.partial(_build, depth),
        frozenset({"prelu.weight", "layer1.0.prelu.weight", "features.running_mean"}),
    )
    for depth, units in UNITS.items()
}
