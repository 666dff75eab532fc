"""Weights of the public PyTorch MobileFaceNet into ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.backbones.mobilefacenet import MobileFaceNet
from tf_sphereface.backbones.published_networks import NETWORKS
from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.backbones.tensor_layout import to_keras
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.image_size import size_of_kernel
from tf_sphereface.importers.state_dictionaries import Layout, load_layout


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

    >>> from tf_sphereface import backbones, embedder
    >>> embedder.save_weights(backbones.MobileFaceNet(), "mobilefacenet.safetensors")
    'mobilefacenet'
    >>> load_mobilefacenet("mobilefacenet.safetensors").output_shape
    (None, 128)
    """
    return load_layout(path, LAYOUT, key=key).model


def _build(tensors: Mapping[str, np.ndarray], input_size: Sequence[int] | None) -> keras.Model:
    name = "linear7.conv.weight"
    height, width = size_of_kernel(name, tensors.get(name), input_size, (112, 96))
    embedding_dim = _shape_of(tensors, "linear1.conv.weight", (128, 512, 1, 1))[0]
    model = MobileFaceNet((height, width, 3), embedding_dim)
    assign_mobilefacenet(model, tensors)
    remember_input(model, "rgb")
    return model


def assign_mobilefacenet(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Set the weights of a `MobileFaceNet` from `{PyTorch name: array}`, all or none.

    `num_batches_tracked` counters are ignored: Keras' batch normalization has none.
    """
    counters = [name for name in tensors if name.endswith(".num_batches_tracked")]
    assign_tensors(_pairs(model), tensors, to_keras, network="MobileFaceNet", ignored=counters)


def _pairs(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Yield each PyTorch name with our variable."""
    for name, layer, attribute, _ in NETWORKS["mobilefacenet"].tensors:
        yield name, getattr(model.get_layer(layer), str(attribute))


def _shape_of(
    tensors: Mapping[str, np.ndarray], name: str, default: tuple[int, ...]
) -> tuple[int, ...]:
    """Return a tensor's shape; `default`, when it is absent, lets the full report follow."""
    shape = tensors[name].shape if name in tensors else default
    return shape if len(shape) == len(default) else default


LAYOUT = Layout(
    "MobileFaceNet",
    frozenset(tensor.name for tensor in NETWORKS["mobilefacenet"].tensors),
    re.compile(r"(conv\d|dw_conv\d|blocks\.|linear\d)"),
    _build,
    frozenset({"linear7.conv.weight"}),
)
