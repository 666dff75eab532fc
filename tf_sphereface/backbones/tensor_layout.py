"""Order of the axes of a tensor in PyTorch's files and in Keras."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

LAST_CHANNELS = 512  # of the map that a network flattens

Arrays = Mapping[str, np.ndarray]


def to_keras(_name: str, tensor: np.ndarray, variable: Any) -> np.ndarray:
    """Lay a PyTorch tensor out as Keras keeps the variable.

    A kernel (out, in, height, width) becomes (height, width, in, out), a depthwise one
    (channels, 1, height, width) becomes (height, width, channels, 1), slopes (channels,) become
    (1, 1, channels). A dense kernel reads the last map flattened as channel, row, column, ours as
    row, column, channel: (out, channels * height * width) becomes (height * width * channels, out),
    or (1, 1, in, out) where ours is a 1x1 convolution. What fits no such rule comes back as it is.
    """
    if tensor.ndim == 4:
        depthwise = tensor.shape[1] == 1 and variable.shape[-1] == 1
        return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    if tensor.ndim == 2 and len(variable.shape) == 4:
        return tensor.T[None, None]
    if tensor.ndim == 2 and tensor.shape[1] % LAST_CHANNELS == 0:
        maps = tensor.reshape(len(tensor), LAST_CHANNELS, -1)
        return maps.transpose(2, 1, 0).reshape(tensor.shape[::-1])
    if tensor.ndim == 1 and len(variable.shape) == 3:
        return tensor.reshape(1, 1, -1)
    return tensor


def to_torch(value: np.ndarray, layer: keras.layers.Layer, *, linear: bool = False) -> np.ndarray:
    """Lay a variable of a layer out as PyTorch keeps it; `linear` makes a matrix of a 1x1 kernel.

    Example:

    >>> layer = keras.layers.Conv2D(8, 3)
    >>> to_torch(np.zeros((3, 3, 4, 8)), layer).shape
    (8, 4, 3, 3)
    """
    if linear:
        return value[0, 0].T
    if value.ndim == 4:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and value.shape[-1] == 1
        return value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    if value.ndim == 2:
        maps = value.reshape(-1, LAST_CHANNELS, value.shape[1])
        return maps.transpose(2, 1, 0).reshape(value.shape[::-1])
    return value.reshape(-1) if value.ndim == 3 else value


def flattened(network: keras.Model | None) -> tuple[tuple[int, ...], Any] | None:
    """Return the shape in front of a Flatten layer and the Dense layer behind it, if there are."""
    layers = [] if network is None else list(network.layers)
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.Dropout)]
    for layer, after in itertools.pairwise(layers):
        if isinstance(layer, keras.layers.Flatten) and isinstance(after, keras.layers.Dense):
            shape = tuple(layer.input.shape[1:])
            if len(shape) == 3 and None not in shape and shape[2] > 1 and shape[0] * shape[1] > 1:
                return shape, after
    return None


@contextlib.contextmanager
def reordered(network: keras.Model | None) -> Iterator[None]:
    """Put the weights behind a Flatten layer from the order of NCHW into that of NHWC, and back."""
    found = flattened(network)
    if found is None:
        yield
        return
    (height, width, channels), dense = found
    before = np.asarray(dense.kernel)
    kernel = before.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
    dense.kernel.assign(kernel.reshape(before.shape))
    try:
        yield
    finally:
        dense.kernel.assign(before)


def pairs_apart(tensors: Arrays) -> dict[str, np.ndarray]:
    """Return the tensors of an arcface_torch `mbf` in the order of our second layer's channels.

    There 64 groups of two neighboring channels are convolved together; here the first channels of
    all groups stand before the second ones (`MobileFaceNet(width=2)`).
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("layers.0.layers.") and tensor.ndim and len(tensor) % 2 == 0:
            found[name] = np.concatenate([tensor[0::2], tensor[1::2]])
    weight = tensors.get(_GROUPED)
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 2 and len(weight) % 2 == 0:
        grouped = weight.reshape(-1, 2, 2, *weight.shape[2:])  # group, output, input
        kernel = grouped.transpose(1, 2, 0, 3, 4)
        found[_GROUPED] = kernel.reshape(2, len(weight), *weight.shape[2:])
    return found


def pairs_together(tensors: Arrays) -> dict[str, np.ndarray]:
    """Undo `pairs_apart`."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("layers.0.layers."):
            found[name] = np.stack(np.split(tensor, 2), axis=1).reshape(tensor.shape)
    weight = tensors[_GROUPED]
    _, channels, height, width = weight.shape  # output, input and group
    kernel = weight.reshape(2, 2, channels // 2, height, width).transpose(2, 0, 1, 3, 4)
    found[_GROUPED] = kernel.reshape(channels, 2, height, width)
    return found


_GROUPED = "layers.1.layers.0.weight"
