"""Layouts of PyTorch networks whose tensors have a name each: IR, IR-SE, SphereNet, SFNet, mbf."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import keras

from tf_sphereface.backbones.published_networks import NETWORKS
from tf_sphereface.backbones.tensor_layout import Arrays, pairs_apart, to_keras
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.image_size import size_of_kernel, sizes_of
from tf_sphereface.importers.state_dictionaries import Layout

_BODIES = {
    "ir": r"(input_layer|body|output_layer)\.",
    "stages": r"(layer\d|fc\b|features\b)",
    "mbf": r"(layers\.|conv_sep\.|features\.)",
    "treb1en": r"(conv1\.|conv2_dw\.|conv_\d|linear\.weight$|bn\.)",
}
_IR = ("ir", "output_layer.3.weight", "input_layer.2.weight", "body.0.res_layer.4.weight")
_MBF = ("mbf", "features.layers.0.layers.0.weight", "conv_sep.layers.0.weight")
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(adaface-)?ir(se)?\d+", _IR),
    (r"spherenet\d+", ("stages", "fc.weight", "layer1.0.0.weight", "layer1.0.1.weight")),
    (r"sfnet\d+", ("stages", "fc.weight", "layer1.0.conv1.bias")),
    (r"sfnet\d+-bn", ("stages", "fc.weight", "features.running_mean")),
    (r"sfnet\d+-older", ("stages", "fc.weight", "layer1.0.conv.bias")),
    (r"mbf(-large)?", _MBF),
    (r"mobilefacenet-treb1en", ("treb1en", "conv_6_dw.conv.weight", "linear.weight")),
)
"""A pattern of names in `NETWORKS`: how names of its tensors begin, and tensors it is known by.

The first of these tells the size of the images: the dense layer or the last depthwise kernel.
"""


def build(
    arch: str, network: str, tensors: Arrays, size: tuple[int, int], embedding_dim: int
) -> keras.Model:
    """Build a network of `NETWORKS` and set its weights, all or none; errors call it `network`."""
    make, named = NETWORKS[arch]
    model = make(input_shape=(*size, 3), embedding_dim=embedding_dim)
    assign_tensors(
        (
            (each.name, getattr(model.get_layer(each.layer), each.attribute))
            for each in named
            if each.attribute
        ),
        pairs_apart(tensors) if arch == "mbf" else tensors,
        to_keras,
        network=network,
        ignored=[each.name for each in named if not each.attribute],
    )
    return model


def _build(arch: str, first: str, tensors: Arrays, input_size: Sequence[int] | None) -> keras.Model:
    """Build a network in the size that its dense layer or its last kernel tells."""
    weight = tensors.get(first)
    if first in (_IR[1], "fc.weight"):
        size, embedding_dim = sizes_of(first, weight, input_size, (112, 112))
    else:
        size = size_of_kernel(first, weight, input_size, (112, 112))
        names = (each.name for each in NETWORKS[arch].tensors if each.kind == "linear")
        linear = tensors.get(next(names))
        embedding_dim = 512 if linear is None or linear.ndim != 2 else len(linear)
    return build(arch, arch, tensors, size, embedding_dim)


def _layout(arch: str) -> Layout | None:
    for pattern, (body, *marks) in _FAMILIES:
        if re.fullmatch(pattern, arch):
            return Layout(
                arch,
                frozenset(each.name for each in NETWORKS[arch].tensors),
                re.compile(_BODIES[body]),
                functools.partial(_build, arch, marks[0]),
                frozenset(marks),
            )
    return None


LAYOUTS = {arch: layout for arch in NETWORKS if (layout := _layout(arch)) is not None}
"""By `arch`."""
