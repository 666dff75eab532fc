"""MobileFaceNet: a million parameters, for phones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import (
    check_counts,
    check_input_shape,
    embedding_dtype,
    halve,
    he_fan_out,
    prelu,
)
from tf_sphereface.utils.checks import check_integer

BOTTLENECKS = (
    (128, 64, 2),
    (128, 64, 1),
    (256, 128, 2),
    (256, 128, 1),
    (512, 128, 2),
    (256, 128, 1),
)
"""Groups of bottlenecks: channels inside, channels at their end, stride."""

BLOCKS = (1, 4, 6, 2)
"""How many: of the layer at the beginning, and of each group of bottlenecks with stride 1."""

_STEM = 64  # channels of the first layer, and groups of the second


def MobileFaceNet(  # noqa: N802  (named as Keras' own applications are)
    input_shape: Sequence[int] = (112, 96, 3),
    embedding_dim: int = 128,
    synchronized_bn: bool = False,
    name: str | None = None,
    *,
    width: int = 1,
    blocks: Sequence[int] = BLOCKS,
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
        width: 1: the paper's. 2: insightface's `mbf`: the ends of bottlenecks are twice as wide,
            their insides as wide as before, and the second layer joins channels by twos.
        blocks: bottlenecks of stride 1 at the beginning and in each of the three groups; 1 at the
            beginning stands for the second layer. `mbf_large` is `width=4, blocks=(2, 8, 12, 4)`.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding `(batch, embedding_dim)`,
        not normalised, float32 under mixed precision too. 1.0 M parameters and 0.19 GMAC at 112x96.

    Raises:
        ValueError: an image too small, a shape of another rank, or `blocks` that are not four
            counts.

    Example:

    >>> MobileFaceNet(input_shape=(112, 112, 3)).output_shape
    (None, 128)

    Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
    Mobile Devices", CCBR 2018, table 1.
    """
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)
    width = check_integer("width", width, 1)
    blocks = check_counts("blocks", blocks, "blocks")
    block = _Block(synchronized_bn)

    image = keras.Input(shape, name="image")
    x = block.convolution(image, _STEM * width, "conv1", kernel=3, stride=2)
    names = (f"block{index}" for index in itertools.count())
    first, *repeats = blocks
    if first == 1:
        x = block.second_layer(x, "dw_conv1", width)
    else:
        for _ in range(first):
            x = block.bottleneck(x, BOTTLENECKS[1][0], x.shape[-1], 1, next(names))
    for (inside, channels, stride), count in zip(
        BOTTLENECKS, (n for each in repeats for n in (1, each)), strict=True
    ):
        for _ in range(count):
            x = block.bottleneck(x, inside, width * channels, stride, next(names))
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

    def second_layer(self, x: Any, name: str, width: int) -> Any:
        """Filter depthwise, or `width` channels together.

        The grouped convolution is a depthwise one with `width` outputs per channel whose outputs
        are added up: Keras' own grouped one cannot be exported to ONNX from a CPU. So channel
        `i * 64 + g` of `x` is the i-th of group g, and channel `g * width + m` of the result is
        the group's m-th.
        """
        if width == 1:
            return self.depthwise(x, name)
        y = keras.layers.DepthwiseConv2D(
            3,
            padding="same",
            depth_multiplier=width,
            data_format="channels_last",
            use_bias=False,
            depthwise_initializer=he_fan_out(),
            name=f"{name}_conv",
        )(x)
        channels = x.shape[-1]
        parts = [y[..., i * channels : (i + 1) * channels] for i in range(width)]
        return self._normalise(keras.layers.Add(name=f"{name}_add")(parts), name, True, None)

    def bottleneck(self, x: Any, inside: int, channels: int, stride: int, name: str) -> Any:
        """Go to `inside` channels by 1x1, filter depthwise, project by 1x1; add `x` if it fits."""
        y = self.convolution(x, inside, f"{name}_expand")
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
            kernel_initializer=he_fan_out(),
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
            depthwise_initializer=he_fan_out(),
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
