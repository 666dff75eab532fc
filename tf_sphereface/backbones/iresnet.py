"""The residual networks of the ArcFace authors, with 18, 34, 50, 100 or 200 layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import (
    check_counts,
    check_input_shape,
    embedding_dtype,
    halve,
    prelu,
)
from tf_sphereface.utils.checks import check_choice, check_integer

CHANNELS = (64, 128, 256, 512)

UNITS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
"""Residual units in each of the four stages, by depth."""


def IResNet(  # noqa: N802  (named as Keras' own applications are)
    depth: int = 50,
    input_shape: Sequence[int] = (112, 112, 3),
    embedding_dim: int = 512,
    synchronized_bn: bool = False,
    name: str | None = None,
    units: Sequence[int] | None = None,
) -> keras.Model:
    """Build an IResNet: a residual network whose units begin and end with batch normalization.

    A 3x3 convolution of stride 1, batch normalization and a PReLU, then four stages of units
    `x + bn(conv(PReLU(bn(conv(bn(x))))))`, both convolutions 3x3, with nothing after the addition.
    A stage's first unit halves the map in its second convolution; its shortcut is a 1x1
    convolution of stride 2 and batch normalization. At the end batch normalization, a dense layer
    with a bias, and batch normalization whose scale is fixed at 1. Convolutions have no bias; every
    epsilon is 1e-5, as in PyTorch, and padding is symmetric.

    | 112x112 | 18 | 34 | 50 | 100 | 200 |
    |---|---|---|---|---|---|
    | parameters, M | 24.03 | 34.14 | 43.59 | 65.16 | 118.83 |
    | GMAC per image | 2.61 | 4.46 | 6.31 | 12.09 | 23.42 |

    Args:
        depth: 18, 34, 50, 100 or 200.
        input_shape: height, width, channels. At least 16 pixels high and wide; the map before `fc`
            is a sixteenth of each, rounded up.
        embedding_dim: length of the embedding.
        synchronized_bn: average the batch statistics over all replicas of a `tf.distribute`
            strategy. Without it the replicas' moving averages drift apart.
        name: the model's name, by default `iresnet{depth}`.
        units: residual units in each of the four stages, one at least; by default those of the
            depth.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding `(batch, embedding_dim)`,
        not normalised, float32 under mixed precision too. Layers are named as the tensors of the
        PyTorch files: `conv1`, `layer{stage}_{unit}_conv1`, `fc`, `features`.

    Raises:
        ValueError: an unknown depth, an image too small, a shape of another rank, or `units` that
            are not four counts.

    Example:

    >>> IResNet(18, input_shape=(32, 32, 3), embedding_dim=64).output_shape
    (None, 64)

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR
    2019, with the units and initial values of the authors' PyTorch code (`arcface_torch`).
    """
    check_choice("depth", depth, tuple(UNITS))
    stages = UNITS[depth] if units is None else units
    stages = check_counts("units", stages, "residual units, one per stage")
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)
    layers = ResidualLayers(synchronized_bn, keras.initializers.RandomNormal(stddev=0.1))

    image = keras.Input(shape, name="image")
    x = layers.convolution(image, CHANNELS[0], "conv1")
    x = prelu(layers.normalize(x, "bn1"), "prelu")
    for stage, (channels, count) in enumerate(zip(CHANNELS, stages, strict=True), start=1):
        for unit in range(count):
            x = layers.unit(x, channels, 1 if unit else 2, f"layer{stage}_{unit}")
    x = layers.normalize(x, "bn2")
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(x)
    bound = x.shape[-1] ** -0.5  # PyTorch's own for a linear layer
    x = keras.layers.Dense(
        embedding_dim,
        kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        dtype=embedding_dtype(),
        name="fc",
    )(x)
    x = layers.normalize(x, "features", scale=False, dtype=embedding_dtype())
    return keras.Model(image, x, name=name or f"iresnet{depth}")


class ResidualLayers:
    """The parts of a residual network: its kernels begin alike, its normalization is of a kind."""

    def __init__(self, synchronized_bn: bool, initializer: keras.initializers.Initializer) -> None:
        self.synchronized_bn = synchronized_bn
        self.initializer = initializer

    def unit(self, x: Any, channels: int, stride: int, name: str) -> Any:
        """Apply a residual unit; one of stride 2 has a convolution in its shortcut."""
        y = self.normalize(x, f"{name}_bn1")
        y = self.convolution(y, channels, f"{name}_conv1")
        y = prelu(self.normalize(y, f"{name}_bn2"), f"{name}_prelu")
        y = self.convolution(y, channels, f"{name}_conv2", stride=stride)
        y = self.normalize(y, f"{name}_bn3")
        if stride == 2:
            x = self.convolution(x, channels, f"{name}_downsample_0", kernel=1, stride=2)
            x = self.normalize(x, f"{name}_downsample_1")
        return keras.layers.Add(name=f"{name}_add")([y, x])

    def convolution(
        self,
        x: Any,
        channels: int,
        name: str,
        *,
        kernel: int = 3,
        stride: int = 1,
        use_bias: bool = False,
    ) -> Any:
        """Apply a convolution, with symmetric padding."""
        if kernel == 3 and stride == 2:
            x = halve(x, name=f"{name}_pad")
        return keras.layers.Conv2D(
            channels,
            kernel,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            data_format="channels_last",
            use_bias=use_bias,
            kernel_initializer=self.initializer.clone(),
            name=name,
        )(x)

    def normalize(
        self,
        x: Any,
        name: str,
        *,
        scale: bool = True,
        center: bool = True,
        dtype: str | None = None,
    ) -> Any:
        """Apply batch normalization; PyTorch's momentum 0.1 is Keras' 0.9."""
        return keras.layers.BatchNormalization(
            axis=-1,
            momentum=0.9,
            epsilon=1e-5,
            scale=scale,
            center=center,
            synchronized=self.synchronized_bn,
            dtype=dtype,
            name=name,
        )(x)
