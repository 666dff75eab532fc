"""Weights of the public PyTorch MobileFaceNet into ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.backbones.mobilefacenet import BOTTLENECKS, MobileFaceNet
from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.state_dictionaries import Layout, load_layout
from tf_sphereface.utils.checks import error


def load_mobilefacenet(path: str | os.PathLike[str], *, key: str | None = None) -> keras.Model:
    """Build a `MobileFaceNet` with the weights of a PyTorch checkpoint.

    The tensors must have the names of the public PyTorch implementations (`conv1.conv.weight`,
    `blocks.0.conv.0.weight`, ... `linear1.bn.weight`), with any prefix and anywhere in the file.
    Each is used once; a head is left out.

    Args:
        path: the checkpoint; see `read_torch_checkpoint`.
        key: the entry or prefix of the weights; only needed where two sets of them fit.

    Returns:
        The model, for images of the size that the last depthwise kernel tells (7x6: 112x96), with
        the checkpoint's embedding length.

    Raises:
        ValueError: the file is no checkpoint, or tensors are missing, unknown or of another shape;
            the message lists them.
        OSError: the file cannot be read.

    Example:

    >>> model = load_mobilefacenet("mobilefacenet.ckpt")    # doctest: +SKIP
    >>> model.output_shape                                  # doctest: +SKIP
    (None, 128)
    """
    return load_layout(path, LAYOUT, key=key).model


def _build(tensors: Mapping[str, np.ndarray], input_size: Sequence[int] | None) -> keras.Model:
    if input_size is not None:
        raise error("input_size", "be None: these weights tell their own", tuple(input_size))
    height, width = _shape_of(tensors, "linear7.conv.weight", (512, 1, 7, 6))[2:]
    embedding_dim = _shape_of(tensors, "linear1.conv.weight", (128, 512, 1, 1))[0]
    model = MobileFaceNet((16 * height, 16 * width, 3), embedding_dim)
    assign_mobilefacenet(model, tensors)
    remember_input(model, "rgb")
    return model


def assign_mobilefacenet(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Set the weights of a `MobileFaceNet` from `{PyTorch name: array}`, all or none.

    `num_batches_tracked` counters are ignored: Keras' batch normalization has none.
    """
    counters = [name for name in tensors if name.endswith(".num_batches_tracked")]
    assign_tensors(_pairs(model), tensors, _to_keras, network="MobileFaceNet", ignored=counters)


def _pairs(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Yield each PyTorch name with our variable."""
    for name, layer, attribute in _tensors():
        yield name, getattr(model.get_layer(layer), attribute)


def _tensors() -> Iterator[tuple[str, str, str]]:
    """Yield each PyTorch name with our layer and its variable's name."""
    for convolution, normalisation, slopes, ours in _layers():
        yield f"{convolution}.weight", f"{ours}_conv", "kernel"
        yield f"{normalisation}.weight", f"{ours}_bn", "gamma"
        yield f"{normalisation}.bias", f"{ours}_bn", "beta"
        yield f"{normalisation}.running_mean", f"{ours}_bn", "moving_mean"
        yield f"{normalisation}.running_var", f"{ours}_bn", "moving_variance"
        if slopes:
            yield f"{slopes}.weight", f"{ours}_prelu", "alpha"


def _layers() -> Iterator[tuple[str, str, str | None, str]]:
    """Yield the PyTorch names of convolution, normalisation and PReLU, and the prefix of ours."""
    for name in ("conv1", "dw_conv1"):
        yield f"{name}.conv", f"{name}.bn", f"{name}.prelu", name
    for index in range(sum(repeats for _, _, repeats, _ in BOTTLENECKS)):
        block = f"blocks.{index}.conv"
        yield f"{block}.0", f"{block}.1", f"{block}.2", f"block{index}_expand"
        yield f"{block}.3", f"{block}.4", f"{block}.5", f"block{index}_depthwise"
        yield f"{block}.6", f"{block}.7", None, f"block{index}_project"
    yield "conv2.conv", "conv2.bn", "conv2.prelu", "conv2"
    yield "linear7.conv", "linear7.bn", None, "linear7"
    yield "linear1.conv", "linear1.bn", None, "linear1"


def _to_keras(_name: str, tensor: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """Lay a PyTorch tensor out as Keras keeps it.

    A kernel (out, in, height, width) becomes (height, width, in, out), a depthwise one
    (channels, 1, height, width) becomes (height, width, channels, 1), slopes (channels,) become
    (1, 1, channels).
    """
    if tensor.ndim == 4:
        depthwise = tensor.shape[1] == 1 and variable.shape[-1] == 1
        return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    if tensor.ndim == 1 and variable.path.endswith("alpha"):
        return tensor.reshape(1, 1, -1)
    return tensor


def _shape_of(
    tensors: Mapping[str, np.ndarray], name: str, default: tuple[int, ...]
) -> tuple[int, ...]:
    """Return a tensor's shape; `default`, when it is absent, lets the full report follow."""
    shape = tensors[name].shape if name in tensors else default
    return shape if len(shape) == len(default) else default


LAYOUT = Layout(
    "MobileFaceNet",
    frozenset(name for name, _, _ in _tensors()),
    re.compile(r"(conv\d|dw_conv\d|blocks\.|linear\d)"),
    _build,
    frozenset({"linear7.conv.weight"}),
)
