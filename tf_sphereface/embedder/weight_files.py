"""Weights alone, as safetensors, under the names of the PyTorch files of the same network."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tf_sphereface.backbones.extraction import as_backbone, in_float32
from tf_sphereface.backbones.published_networks import NETWORKS, published_name
from tf_sphereface.backbones.tensor_layout import pairs_together, to_torch
from tf_sphereface.embedder.embedder import describe_backbone
from tf_sphereface.embedder.metadata import METADATA_NAME, EmbedderMetadata, library_versions
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.files import atomic_path

_ALIGNMENT = 8  # bytes: tensors begin at a multiple of it


def save_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    metadata: EmbedderMetadata | None = None,
) -> str:
    """Write a network's weights as safetensors, without its code.

    The tensors have the names, shapes and order of the PyTorch files that others publish of this
    network, so PyTorch can load them there, and `tf_sphereface-import` recognises them here. How
    the network is fed stands in the header, and the import keeps to it. The file appears whole or
    not at all.

    Args:
        model: what `as_backbone` takes: one of `tf_sphereface.backbones` in a published form. A
            classifier's head is left out.
        path: where to write; must end in `.safetensors`.
        metadata: as for `save_embedder`.

    Returns:
        The name that `tf_sphereface-import --arch` has for the network, such as `"iresnet50"`.

    Raises:
        ValueError: another suffix, or a network of no published form: save it as `.keras`.

    Example:

    >>> from tf_sphereface.backbones import SphereFaceNet
    >>> save_weights(SphereFaceNet(20, (28, 24, 3), 8), "network.safetensors")
    'spherenet20'

    Source: the format is that of https://github.com/huggingface/safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise error("path", "end in .safetensors", str(path))
    backbone = in_float32(as_backbone(model))
    name = published_name(backbone)
    if name is None:
        text = "be a published network, such as IResNet(50); save another by save_embedder"
        raise error("model", text, backbone.name)
    metadata = describe_backbone(backbone, metadata)
    if not metadata.versions:
        metadata = dataclasses.replace(metadata, versions=library_versions())
    texts = {"format": "pt", "arch": name, METADATA_NAME: metadata.to_json()}
    _write(path, _tensors(backbone, name), texts)
    return name


def _tensors(model: keras.Model, name: str) -> dict[str, np.ndarray]:
    """Return a network's weights as the tensors of its PyTorch file."""
    tensors = {}
    for each in NETWORKS[name].tensors:
        layer = model.get_layer(each.layer)
        if each.attribute is None:  # a scale that is 1
            tensors[each.name] = np.ones(layer.moving_mean.shape, np.float32)
            continue
        value = np.asarray(getattr(layer, each.attribute).numpy(), np.float32)
        tensors[each.name] = to_torch(value, layer, linear=each.kind == "linear")
    return pairs_together(tensors) if name == "mbf" else tensors


def _write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write the length of a header of JSON, the header, and the numbers, little-endian."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        facts = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = facts
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(np.ascontiguousarray(tensor, "<f4").tobytes())
