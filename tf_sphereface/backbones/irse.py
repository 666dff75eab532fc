"""The residual networks IR and IR-SE of AdaFace and InsightFace_Pytorch, with 18 to 152 layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import (
    check_counts,
    check_input_shape,
    embedding_dtype,
    he_fan_out,
    prelu,
)
from tf_sphereface.backbones.iresnet import CHANNELS, ResidualLayers
from tf_sphereface.utils.checks import check_choice, check_integer

UNITS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
}
"""Residual units in each of the four stages, by depth."""

_REDUCTION = 16  # channels per channel of the squeeze
_DROPOUT = 0.4


def IRSE(  # noqa: N802  (named as Keras' own applications are)
    depth: int = 50,
    input_shape: Sequence[int] = (112, 112, 3),
    embedding_dim: int = 512,
    synchronized_bn: bool = False,
    name: str | None = None,
    units: Sequence[int] | None = None,
    *,
    se: bool = False,
    inner_norm: bool = True,
    affine: bool = False,
) -> keras.Model:
    """Build an IR or IR-SE network: `IResNet`'s units with a shortcut that only strides.

    It differs from `IResNet` in four points: where a unit keeps the number of channels, its
    shortcut takes every second pixel in place of a convolution (the first unit of stage 1); 40 % of
    the last map is dropped in training; the last batch normalization has neither scale nor offset,
    unless `affine`;
    kernels begin at N(0, 2 / fan_out).

    | 112x112 | 18 | 34 | 50 | 101 | 152 |
    |---|---|---|---|---|---|
    | parameters, M | 24.02 | 34.13 | 43.59 | 65.15 | 70.76 |

    Args:
        depth: 18, 34, 50, 101 or 152.
        input_shape: height, width, channels. At least 16 pixels high and wide; the map before the
            dense layer is a sixteenth of each, rounded up.
        embedding_dim: length of the embedding.
        synchronized_bn: average the batch statistics over all replicas of a `tf.distribute`
            strategy. Without it the replicas' moving averages drift apart.
        name: the model's name, by default `ir{depth}` or `irse{depth}`.
        units: residual units in each of the four stages, one at least; by default those of the
            depth.
        se: weigh the channels of each unit by squeeze and excitation.
        inner_norm: batch normalization between a unit's first convolution and its PReLU, as AdaFace
            has it; InsightFace_Pytorch has none there.
        affine: scale and offset in the last batch normalization, as InsightFace_Pytorch has them.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding `(batch, embedding_dim)`,
        not normalised, float32 under mixed precision too. Layers are named as the tensors of the
        PyTorch files: `input_layer_0`, `body_{unit}_res_layer_1`, `output_layer_3`.

    Raises:
        ValueError: an unknown depth, an image too small, a shape of another rank, or `units` that
            are not four counts.

    Example:

    >>> IRSE(18, input_shape=(32, 32, 3), embedding_dim=64, se=True).output_shape
    (None, 64)

    Source: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, with the
    units and initial values of the authors' PyTorch code, but for 152, which is
    InsightFace_Pytorch's (`inner_norm=False, affine=True`); squeeze and excitation by Hu et al.,
    CVPR 2018.
    """
    check_choice("depth", depth, tuple(UNITS))
    stages = UNITS[depth] if units is None else units
    stages = check_counts("units", stages, "residual units, one per stage")
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)
    layers = _Units(synchronized_bn, he_fan_out())

    image = keras.Input(shape, name="image")
    x = layers.convolution(image, CHANNELS[0], "input_layer_0")
    x = prelu(layers.normalize(x, "input_layer_1"), "input_layer_2")
    strided = [
        (channels, 1 if unit else 2)
        for channels, count in zip(CHANNELS, stages, strict=True)
        for unit in range(count)
    ]
    for number, (channels, stride) in enumerate(strided):
        x = layers.ir_unit(x, channels, stride, f"body_{number}", se=se, inner_norm=inner_norm)
    x = layers.normalize(x, "output_layer_0")
    x = keras.layers.Dropout(_DROPOUT, name="output_layer_1")(x)
    x = keras.layers.Flatten(data_format="channels_last", name="output_layer_2")(x)
    x = keras.layers.Dense(
        embedding_dim,
        kernel_initializer=he_fan_out(),
        dtype=embedding_dtype(),
        name="output_layer_3",
    )(x)
    x = layers.normalize(x, "output_layer_4", scale=affine, center=affine, dtype=embedding_dtype())
    return keras.Model(image, x, name=name or f"ir{'se' if se else ''}{depth}")


class _Units(ResidualLayers):
    """The units of the network."""

    def ir_unit(
        self, x: Any, channels: int, stride: int, name: str, *, se: bool, inner_norm: bool
    ) -> Any:
        """Apply a unit; its layers are numbered as they stand in the PyTorch module."""
        names = iter(f"{name}_res_layer_{number}" for number in range(6))
        y = self.normalize(x, next(names))
        y = self.convolution(y, channels, next(names))
        if inner_norm:
            y = self.normalize(y, next(names))
        y = prelu(y, next(names))
        y = self.convolution(y, channels, next(names), stride=stride)
        y = self.normalize(y, next(names))
        if se:
            y = self.weigh_channels(y, f"{name}_se_block")
        if x.shape[-1] != channels:
            x = self.convolution(x, channels, f"{name}_shortcut_layer_0", kernel=1, stride=stride)
            x = self.normalize(x, f"{name}_shortcut_layer_1")
        elif stride == 2:
            x = keras.layers.MaxPooling2D(
                1, stride, data_format="channels_last", name=f"{name}_shortcut_layer"
            )(x)
        return keras.layers.Add(name=f"{name}_add")([y, x])

    def weigh_channels(self, x: Any, name: str) -> Any:
        """Multiply each channel by a number between 0 and 1 that its mean and the others' give."""
        y = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", keepdims=True, name=f"{name}_avg_pool"
        )(x)
        y = self.convolution(y, x.shape[-1] // _REDUCTION, f"{name}_fc1", kernel=1)
        y = keras.layers.ReLU(name=f"{name}_relu")(y)
        y = self.convolution(y, x.shape[-1], f"{name}_fc2", kernel=1)
        y = keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")(y)
        return keras.layers.Multiply(name=f"{name}_scale")([x, y])
