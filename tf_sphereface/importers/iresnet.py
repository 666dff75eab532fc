"""Weights of the PyTorch IResNets of arcface_torch into ours."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.backbones.iresnet import UNITS
from tf_sphereface.backbones.published_networks import NETWORKS
from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.importers.image_size import sizes_of
from tf_sphereface.importers.named_networks import build
from tf_sphereface.importers.state_dictionaries import Layout

_EPSILON = 1e-5
_BODY = re.compile(r"(layer\d|conv\d|bn\d|prelu\b|fc\.(weight|bias)$|features\b)")


def _build(
    depth: int, tensors: Mapping[str, np.ndarray], input_size: Sequence[int] | None
) -> keras.Model:
    """Build the network in the size that `fc.weight` tells, and set its weights."""
    size, embedding_dim = sizes_of("fc.weight", tensors.get("fc.weight"), input_size, (112, 112))
    arch, network = f"iresnet{depth}", f"IResNet-{depth}"
    model = build(arch, network, _with_a_scale_of_one(tensors), size, embedding_dim)
    remember_input(model, "rgb", pixel_scale=127.5)
    return model


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


LAYOUTS = {
    depth: Layout(
        f"IResNet-{depth}",
        frozenset(tensor.name for tensor in NETWORKS[f"iresnet{depth}"].tensors),
        _BODY,
        functools.partial(_build, depth),
        frozenset({"prelu.weight", "layer1.0.prelu.weight", "features.running_mean"}),
    )
    for depth in UNITS
}
