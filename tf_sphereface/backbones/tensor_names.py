"""Names of the tensors in PyTorch's files of each network, beside our layers and variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["kernel", "kernel_bias", "linear", "norm", "norm_unscaled", "statistics", "slopes"]

_STATISTICS = (("running_mean", "moving_mean"), ("running_var", "moving_variance"))
_TENSORS: dict[Kind, tuple[tuple[str, str | None], ...]] = {
    "kernel": (("weight", "kernel"),),
    "linear": (("weight", "kernel"),),  # a matrix for our 1x1 convolution
    "kernel_bias": (("weight", "kernel"), ("bias", "bias")),
    "norm": (("weight", "gamma"), ("bias", "beta"), *_STATISTICS),
    "norm_unscaled": (("weight", None), ("bias", "beta"), *_STATISTICS),  # its scale is 1
    "statistics": _STATISTICS,
    "slopes": (("weight", "alpha"),),
}


class NamedLayer(NamedTuple):
    """A layer of a PyTorch network and ours."""

    theirs: str
    ours: str
    kind: Kind


class NamedTensor(NamedTuple):
    """A tensor of a PyTorch file and our variable."""

    name: str
    layer: str
    attribute: str | None  # None: the file has it, our layer does not
    kind: Kind


Layers = Iterator[NamedLayer]


def tensors_of(layers: Layers) -> Iterator[NamedTensor]:
    """Yield each tensor's name with our layer and its variable's name.

    Example:

    >>> [tensor.name for tensor in tensors_of(iter([NamedLayer("fc", "fc", "kernel_bias")]))]
    ['fc.weight', 'fc.bias']
    """
    for theirs, ours, kind in layers:
        for suffix, attribute in _TENSORS[kind]:
            yield NamedTensor(f"{theirs}.{suffix}", ours, attribute, kind)


def _same(name: str, kind: Kind) -> NamedLayer:
    """Name a layer of ours as theirs, with underscores."""
    return NamedLayer(name, name.replace(".", "_"), kind)


def iresnet(units: Sequence[int]) -> Layers:
    """Yield the layers of arcface_torch's IResNet."""
    yield from (_same("conv1", "kernel"), _same("bn1", "norm"), _same("prelu", "slopes"))
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            yield _same(f"{name}.bn1", "norm")
            yield _same(f"{name}.conv1", "kernel")
            yield _same(f"{name}.bn2", "norm")
            yield _same(f"{name}.prelu", "slopes")
            yield _same(f"{name}.conv2", "kernel")
            yield _same(f"{name}.bn3", "norm")
            if unit == 0:
                yield _same(f"{name}.downsample.0", "kernel")
                yield _same(f"{name}.downsample.1", "norm")
    yield from (_same("bn2", "norm"), _same("fc", "kernel_bias"))
    yield _same("features", "norm_unscaled")


def irse(units: Sequence[int], *, se: bool, adaface: bool) -> Layers:
    """Yield the layers of AdaFace's IR and IR-SE, or of InsightFace_Pytorch's."""
    yield _same("input_layer.0", "kernel")
    yield from (_same("input_layer.1", "norm"), _same("input_layer.2", "slopes"))
    inner: tuple[Kind, ...] = ("norm",) if adaface else ()
    kinds: tuple[Kind, ...] = ("norm", "kernel", *inner, "slopes", "kernel", "norm")
    number = 0
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name = f"body.{number}"
            for index, kind in enumerate(kinds):
                yield _same(f"{name}.res_layer.{index}", kind)
            if se:
                block = "se_block" if adaface else str(len(kinds))
                for part in ("fc1", "fc2"):
                    ours = f"body_{number}_se_block_{part}"
                    yield NamedLayer(f"{name}.res_layer.{block}.{part}", ours, "kernel")
            if unit == 0 and stage > 1:
                yield _same(f"{name}.shortcut_layer.0", "kernel")
                yield _same(f"{name}.shortcut_layer.1", "norm")
            number += 1
    yield from (_same("output_layer.0", "norm"), _same("output_layer.3", "kernel_bias"))
    yield _same("output_layer.4", "statistics" if adaface else "norm")


def sphere20a(units: Sequence[int]) -> Layers:
    """Yield the layers of the public sphere20a, named as ours; all convolutions have a bias."""
    for stage, count in enumerate(units, start=1):
        for index in range(1, 2 * count + 2):
            yield _same(f"conv{stage}_{index}", "kernel_bias")
            yield _same(f"relu{stage}_{index}", "slopes")
    yield _same("fc5", "kernel_bias")


def spherenet(units: Sequence[int]) -> Layers:
    """Yield the layers of yakhyo's SphereNet, which are those of `SphereFaceNet`."""
    for stage, count in enumerate(units, start=1):
        yield NamedLayer(f"layer{stage}.0.0", f"conv{stage}_1", "kernel_bias")
        yield NamedLayer(f"layer{stage}.0.1", f"relu{stage}_1", "slopes")
        for unit in range(1, count + 1):
            for half in (0, 1):
                name, number = f"layer{stage}.{unit}.block.{half}", f"{stage}_{2 * unit + half}"
                yield NamedLayer(f"{name}.0", f"conv{number}", "kernel")
                yield NamedLayer(f"{name}.1", f"relu{number}", "slopes")
    yield NamedLayer("fc", "fc5", "kernel_bias")


def sfnet(units: Sequence[int], *, batch_norm: bool = False, older: bool = False) -> Layers:
    """Yield the layers of opensphere's SFNet, or of its older one (`sfnet20_deprecated`)."""
    kind: Kind = "kernel" if batch_norm else "kernel_bias"
    for stage, count in enumerate(units, start=1):
        first = "conv" if older else "conv1"
        yield NamedLayer(f"layer{stage}.0.{first}", f"layer{stage}_0_conv1", kind)
        parts = [f"layer{stage}.0.1"] if batch_norm else []
        for unit in range(1, count + 1):
            for half in (1, 2):
                yield _same(f"layer{stage}.{unit}.conv{half}", kind)
                parts += [f"layer{stage}.{unit}.{half}"] if batch_norm else []
        for part in parts:
            block, number = part.rsplit(".", 1)
            yield _same(f"{block}.bn{number}", "norm")
    yield _same("fc", "kernel_bias")
    if batch_norm:
        yield _same("features", "norm")


def mobilefacenet(blocks: Sequence[int]) -> Layers:
    """Yield the layers of the public PyTorch MobileFaceNet."""
    yield from _convolution("conv1", "conv1", "conv", "bn", "prelu")
    yield from _convolution("dw_conv1", "dw_conv1", "conv", "bn", "prelu")
    for index in range(3 + sum(blocks[1:])):
        for first, part in ((0, "expand"), (3, "depthwise"), (6, "project")):
            numbers = [str(first + number) for number in range(2 if first == 6 else 3)]
            yield from _convolution(f"blocks.{index}.conv", f"block{index}_{part}", *numbers)
    yield from _convolution("conv2", "conv2", "conv", "bn", "prelu")
    yield from _convolution("linear7", "linear7", "conv", "bn")
    yield from _convolution("linear1", "linear1", "conv", "bn")


def mobilefacenet_treb1en(blocks: Sequence[int]) -> Layers:
    """Yield the layers of InsightFace_Pytorch's MobileFaceNet."""
    yield from _convolution("conv1", "conv1", "conv", "bn", "prelu")
    yield from _convolution("conv2_dw", "dw_conv1", "conv", "bn", "prelu")
    names = [
        name
        for group, count in zip((3, 4, 5), blocks[1:], strict=True)
        for name in (
            f"conv_{group - 1}{group}",
            *(f"conv_{group}.model.{index}" for index in range(count)),
        )
    ]
    for index, name in enumerate(names):
        ours = f"block{index}"
        yield from _convolution(f"{name}.conv", f"{ours}_expand", "conv", "bn", "prelu")
        yield from _convolution(f"{name}.conv_dw", f"{ours}_depthwise", "conv", "bn", "prelu")
        yield from _convolution(f"{name}.project", f"{ours}_project", "conv", "bn")
    yield from _convolution("conv_6_sep", "conv2", "conv", "bn", "prelu")
    yield from _convolution("conv_6_dw", "linear7", "conv", "bn")
    yield NamedLayer("linear", "linear1_conv", "linear")
    yield NamedLayer("bn", "linear1_bn", "norm")


def mbf(blocks: Sequence[int]) -> Layers:
    """Yield the layers of arcface_torch's MobileFaceNet."""
    numbers = ("layers.0", "layers.1", "layers.2")
    yield from _convolution("layers.0", "conv1", *numbers)
    names = []
    if blocks[0] == 1:
        yield from _convolution("layers.1", "dw_conv1", *numbers)
    else:
        names += [f"layers.1.layers.{index}" for index in range(blocks[0])]
    for group, count in enumerate(blocks[1:], start=1):
        names.append(f"layers.{2 * group}")
        names += [f"layers.{2 * group + 1}.layers.{index}" for index in range(count)]
    for index, name in enumerate(names):
        for number, part in enumerate(("expand", "depthwise", "project")):
            theirs = f"{name}.layers.{number}"
            yield from _convolution(theirs, f"block{index}_{part}", *numbers[: 3 - number // 2])
    yield from _convolution("conv_sep", "conv2", *numbers)
    yield from _convolution("features.layers.0", "linear7", *numbers[:2])
    yield NamedLayer("features.layers.2", "linear1_conv", "linear")
    yield NamedLayer("features.layers.3", "linear1_bn", "norm")


def _convolution(theirs: str, ours: str, *parts: str) -> Layers:
    """Yield a convolution, its normalization and, of three parts, its PReLU."""
    kinds: tuple[tuple[str, Kind], ...] = (("conv", "kernel"), ("bn", "norm"), ("prelu", "slopes"))
    for part, (suffix, kind) in zip(parts, kinds, strict=False):
        yield NamedLayer(f"{theirs}.{part}", f"{ours}_{suffix}", kind)
