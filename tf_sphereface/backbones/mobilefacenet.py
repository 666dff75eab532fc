"""MobileFaceNet: a million parameters, for phones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import check_input_shape, embedding_dtype, halve, prelu
from tf_sphereface.utils.checks import check_integer

BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Groups of bottlenecks: expansion, channels, repeats, stride of the first."""


def MobileFaceNet(  # noqa: N802  (named as Keras' own applications are)
    input_shape: Sequence[int] = (112, 96, 3),
    embedding_dim: int = 128,
    synchronized_bn: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a MobileFaceNet: inverted bottlenecks, then a depthwise layer as large as the map.

    Batch normalisation (epsilon 1e-5) follows every convolution, a PReLU with one slope per channel
    follows each but the linear ones: the end of a bottleneck and the last two layers. Padding is
    symmetric, so weights trained in PyTorch give the same embedding (`tf_sphereface.importers`).

    Args:
        input_shape: height, width, channels. At least 16 pixels high and wide. The last depthwise
            kernel takes the size of its map: 7x6 at 112x96, 7x7 at 112x112.
        embedding_dim: length of the embedding.
        synchronized_bn: average the batch statistics over all replicas of a `tf.distribute`
            strategy. Without it the replicas' moving averages drift apart.
        name: the model's name, by default `mobilefacenet`.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding `(batch, embedding_dim)`,
        not normalised, float32 under mixed precision too. 1.0 M parameters and 0.19 GMAC at 112x96.

    Raises:
        ValueError: an image too small, or a shape of another rank.

    Example:

    >>> MobileFaceNet(input_shape=(112, 112, 3)).output_shape
    (None, 128)

    Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
    Mobile Devices", CCBR 2018, table 1.
    """
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)
    block = _Block(synchronized_bn)

    image = keras.Input(shape, name="image")
    x = block.convolution(image, 64, "conv1", kernel=3, stride=2)
    x = block.depthwise(x, "dw_conv1")
    names = (f"block{index}" for index in itertools.count())
    for expansion, channels, repeats, first_stride in BOTTLENECKS:
        for stride in (first_stride, *[1] * (repeats - 1)):
            x = block.bottleneck(x, expansion, channels, stride, next(names))
    x = block.convolution(x, 512, "conv2")
    x = block.depthwise(x, "linear7", kernel=tuple(x.shape[1:3]), activation=False)
    x = block.convolution(x, embedding_dim, "linear1", activation=False, dtype=embedding_dtype())
    x = keras.layers.Flatten(
        data_format="channels_last", dtype=embedding_dtype(), name="embedding"
    )(x)
    return keras.Model(image, x, name=name or "mobilefacenet")


class _Block:
    """The building blocks, which all share one kind of batch normalisation."""

    def __init__(self, synchronized_bn: bool) -> None:
        self.synchronized_bn = synchronized_bn

    def bottleneck(self, x: Any, expansion: int, channels: int, stride: int, name: str) -> Any:
        """Expand by 1x1, filter depthwise, project by a linear 1x1; add `x` where shapes agree."""
        y = self.convolution(x, expansion * x.shape[-1], f"{name}_expand")
        y = self.depthwise(y, f"{name}_depthwise", stride=stride)
        y = self.convolution(y, channels, f"{name}_project", activation=False)
        if stride == 1 and x.shape[-1] == channels:
            return keras.layers.Add(name=f"{name}_add")([x, y])
        return y

    def convolution(
        self,
        x: Any,
        channels: int,
        name: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: bool = True,
        dtype: str | None = None,
    ) -> Any:
        """Apply a convolution without bias, batch normalisation, and PReLU if asked."""
        if stride == 2:
            x = halve(x, name=f"{name}_pad")
        x = keras.layers.Conv2D(
            channels,
            kernel,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer=_he_fan_out(),
            dtype=dtype,
            name=f"{name}_conv",
        )(x)
        return self._normalise(x, name, activation, dtype)

    def depthwise(
        self,
        x: Any,
        name: str,
        *,
        kernel: int | tuple[int, ...] = 3,
        stride: int = 1,
        activation: bool = True,
    ) -> Any:
        """Apply a depthwise convolution; a kernel given as a tuple covers the whole map."""
        if stride == 2:
            x = halve(x, name=f"{name}_pad")
        x = keras.layers.DepthwiseConv2D(
            kernel,
            strides=stride,
            padding="same" if stride == 1 and isinstance(kernel, int) else "valid",
            data_format="channels_last",
            use_bias=False,
            depthwise_initializer=_he_fan_out(),
            name=f"{name}_conv",
        )(x)
        return self._normalise(x, name, activation, None)

    def _normalise(self, x: Any, name: str, activation: bool, dtype: str | None) -> Any:
        # PyTorch's momentum 0.1 weighs the new batch, Keras' 0.9 the old average: the same thing.
        x = keras.layers.BatchNormalization(
            axis=-1,
            momentum=0.9,
            epsilon=1e-5,
            synchronized=self.synchronized_bn,
            dtype=dtype,
            name=f"{name}_bn",
        )(x)
        return prelu(x, f"{name}_prelu") if activation else x


def _he_fan_out() -> keras.initializers.Initializer:
    """Return N(0, 2 / fan_out), as in the PyTorch implementations."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )
