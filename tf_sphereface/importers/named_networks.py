"""Layouts of PyTorch networks whose tensors have a name each: IR, IR-SE, SphereNet, SFNet, mbf."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import keras

from tf_sphereface.backbones import tensor_names
from tf_sphereface.backbones.irse import IRSE
from tf_sphereface.backbones.irse import UNITS as IRSE_UNITS
from tf_sphereface.backbones.mobilefacenet import BLOCKS, MobileFaceNet
from tf_sphereface.backbones.sfnet import SFNet
from tf_sphereface.backbones.sphereface import UNITS, SphereFaceNet
from tf_sphereface.backbones.tensor_layout import Arrays, pairs_apart, to_keras
from tf_sphereface.backbones.tensor_names import Layers, tensors_of
from tf_sphereface.importers.assign_weights import assign_tensors
from tf_sphereface.importers.image_size import sizes_of
from tf_sphereface.importers.state_dictionaries import Layout
from tf_sphereface.utils.checks import error

_STAGES = re.compile(r"(layer\d|fc\b|features\b)")


def build(
    network: str,
    layers: Callable[[], Layers],
    make: Callable[..., keras.Model],
    tensors: Arrays,
    size: tuple[int, int],
    embedding_dim: int,
) -> keras.Model:
    """Build a network of that size and set its weights, all or none."""
    model = make(input_shape=(*size, 3), embedding_dim=embedding_dim)
    named = list(tensors_of(layers()))
    pairs = [(each.name, each) for each in named if each.attribute]
    assign_tensors(
        ((name, getattr(model.get_layer(x.layer), str(x.attribute))) for name, x in pairs),
        tensors,
        to_keras,
        network=network,
        ignored=[each.name for each in named if not each.attribute],
    )
    return model


def _of_dense(
    network: str,
    dense: str,
    layers: Callable[[], Layers],
    make: Callable[..., keras.Model],
    tensors: Arrays,
    input_size: Sequence[int] | None,
) -> keras.Model:
    """Build a network in the size that its dense layer tells."""
    size, embedding_dim = sizes_of(dense, tensors.get(dense), input_size, (112, 112))
    return build(network, layers, make, tensors, size, embedding_dim)


def _of_last_kernel(
    network: str,
    names: tuple[str, str],
    layers: Callable[[], Layers],
    make: Callable[..., keras.Model],
    tensors: Arrays,
    input_size: Sequence[int] | None,
) -> keras.Model:
    """Build a network in the size that its last depthwise kernel tells."""
    if input_size is not None:
        raise error("input_size", "be None: these weights tell their own", tuple(input_size))
    kernel, linear = (tensors.get(name) for name in names)
    sides = (7, 7) if kernel is None or kernel.ndim != 4 else kernel.shape[2:]
    size = (16 * sides[0], 16 * sides[1])
    embedding_dim = 512 if linear is None or linear.ndim != 2 else len(linear)
    if network == "mbf":
        tensors = pairs_apart(tensors)
    return build(network, layers, make, tensors, size, embedding_dim)


def _layout(
    arch: str,
    layers: Callable[[], Layers],
    make: Callable[..., keras.Model],
    body: re.Pattern[str],
    *marks: str,
    kernel: str | None = None,
) -> Layout:
    """Describe a network whose size the first of `marks` tells, with `kernel` where that is one."""
    reader = (
        functools.partial(_of_dense, arch, marks[0], layers, make)
        if kernel is None
        else functools.partial(_of_last_kernel, arch, (kernel, marks[0]), layers, make)
    )
    names = frozenset(tensor.name for tensor in tensors_of(layers()))
    return Layout(arch, names, body, reader, frozenset(marks))


def _irse() -> Iterator[Layout]:
    """Yield AdaFace's networks, then InsightFace_Pytorch's."""
    depths = {True: (18, 34, 50, 101), False: (50, 101, 152)}
    for adaface, se in itertools.product((True, False), (False, True)):
        for depth in depths[adaface]:
            arch = f"{'adaface-' if adaface else ''}ir{'se' if se else ''}{depth}"
            units = IRSE_UNITS[depth]
            yield _layout(
                arch,
                functools.partial(tensor_names.irse, units, se=se, adaface=adaface),
                functools.partial(IRSE, depth, se=se, inner_norm=adaface, affine=not adaface),
                re.compile(r"(input_layer|body|output_layer)\."),
                "output_layer.3.weight",
                "input_layer.2.weight",
                "body.0.res_layer.4.weight",
            )


def _sphereface() -> Iterator[Layout]:
    """Yield yakhyo's SphereNet and opensphere's SFNet, of every depth."""
    for depth, units in UNITS.items():
        yield _layout(
            f"spherenet{depth}",
            functools.partial(tensor_names.spherenet, units),
            functools.partial(SphereFaceNet, depth),
            _STAGES,
            "fc.weight",
            "layer1.0.0.weight",
            "layer1.0.1.weight",
        )
    for depth, units in UNITS.items():
        for suffix, mark, options in (
            ("", "layer1.0.conv1.bias", {}),
            ("-bn", "features.running_mean", {"batch_norm": True}),
            ("-older", "layer1.0.conv.bias", {"older": True}),
        ):
            make = functools.partial(
                SFNet, depth, batch_norm=suffix == "-bn", activation_after_add=suffix != "-older"
            )
            layers = functools.partial(tensor_names.sfnet, units, **options)
            yield _layout(f"sfnet{depth}{suffix}", layers, make, _STAGES, "fc.weight", mark)


def _mobilefacenets() -> Iterator[Layout]:
    """Yield arcface_torch's two MobileFaceNets and InsightFace_Pytorch's."""
    for arch, width, blocks in (("mbf", 2, BLOCKS), ("mbf-large", 4, (2, 8, 12, 4))):
        yield _layout(
            arch,
            functools.partial(tensor_names.mbf, blocks),
            functools.partial(MobileFaceNet, width=width, blocks=blocks),
            re.compile(r"(layers\.|conv_sep\.|features\.)"),
            "features.layers.2.weight",
            "conv_sep.layers.0.weight",
            kernel="features.layers.0.layers.0.weight",
        )
    yield _layout(
        "mobilefacenet-treb1en",
        functools.partial(tensor_names.mobilefacenet_treb1en, BLOCKS),
        MobileFaceNet,
        re.compile(r"(conv1\.|conv2_dw\.|conv_\d|linear\.weight$|bn\.)"),
        "linear.weight",
        "conv_6_dw.conv.weight",
        kernel="conv_6_dw.conv.weight",
    )


LAYOUTS = {each.network: each for each in (*_irse(), *_sphereface(), *_mobilefacenets())}
"""By `arch`."""
