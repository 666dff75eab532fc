"""The residual networks of the SphereFace paper, with 4, 10, 20, 36 or 64 layers."""

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
    4: (0, 0, 0, 0),
    10: (0, 1, 2, 0),
    20: (1, 2, 4, 1),
    36: (2, 4, 8, 2),
    64: (3, 8, 16, 3),
}
"""Residual units in each of the four stages, by depth (number of convolutions)."""


def SphereFaceNet(  # noqa: N802  (named as Keras' own applications are)
    depth: int = 20,
    input_shape: Sequence[int] = (112, 96, 3),
    embedding_dim: int = 512,
    unit_bias: bool = False,
    name: str | None = None,
    units: Sequence[int] | None = None,
) -> keras.Model:
    """Build a SphereFace network: four stages of convolutions, then one dense layer.

    A stage is a 3x3 convolution of stride 2 with symmetric padding and a PReLU, then residual units
    `x + PReLU(conv(PReLU(conv(x))))`. There is no batch normalisation, no pooling, and nothing
    after the addition. The last map is flattened in row, column, channel order into `fc5`.

    | 112x96 | 4 | 10 | 20 | 36 | 64 |
    |---|---|---|---|---|---|
    | parameters, M | 12.56 | 15.22 | 22.67 | 32.77 | 48.19 |
    | GMAC per image | 0.164 | 0.759 | 1.750 | 3.335 | 6.110 |

    Args:
        depth: convolutions: 4, 10, 20, 36 or 64.
        input_shape: height, width, channels. At least 16 pixels high and wide; the map before `fc5`
            is a sixteenth of each, rounded up.
        embedding_dim: length of the embedding.
        unit_bias: give the convolutions of the residual units a bias. The authors' networks have
            them frozen at zero, so they are left out by default; weights from elsewhere may need
            them.
        name: the model's name, by default `sphereface{depth}`.
        units: residual units in each of the four stages; by default those of the depth. The
            authors' released 64-layer file has `(3, 7, 16, 3)`, one less than their table.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding
        `(batch, embedding_dim)`, not normalised, float32 under mixed precision too. Layers are
        named as in the authors' Caffe files: `conv{stage}_{i}`, `relu{stage}_{i}`, `fc5`.

    Raises:
        ValueError: an unknown depth, an image too small, a shape of another rank, or `units` that
            are not four counts.

    Example:

    >>> SphereFaceNet(depth=4, input_shape=(56, 48, 3), embedding_dim=128).output_shape
    (None, 128)

    Source: Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017,
    table 2, with the initial values of the authors' released Caffe code.
    """
    check_choice("depth", depth, tuple(UNITS))
    stages = UNITS[depth] if units is None else units
    stages = check_counts("units", stages, "residual units, one per stage", least=0)
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)

    image = keras.Input(shape, name="image")
    x = image
    for stage, (channels, count) in enumerate(zip(CHANNELS, stages, strict=True), start=1):
        x = halve(x, name=f"pad{stage}_1")
        x = _convolution(x, channels, f"{stage}_1", stride=2, bias=True)
        for unit in range(count):
            first = 2 * unit + 2
            y = _convolution(x, channels, f"{stage}_{first}", stride=1, bias=unit_bias)
            y = _convolution(y, channels, f"{stage}_{first + 1}", stride=1, bias=unit_bias)
            x = keras.layers.Add(name=f"res{stage}_{first + 1}")([x, y])
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(x)
    embedding = keras.layers.Dense(
        embedding_dim, kernel_initializer=_fan_in_uniform(), dtype=embedding_dtype(), name="fc5"
    )(x)
    return keras.Model(image, embedding, name=name or f"sphereface{depth}")


def _convolution(x: Any, channels: int, suffix: str, *, stride: int, bias: bool) -> Any:
    """Apply a 3x3 convolution and a PReLU with one slope per channel.

    With stride 1, Keras' "same" padding is one pixel on every side, as in the original.
    """
    x = keras.layers.Conv2D(
        channels,
        3,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        data_format="channels_last",
        use_bias=bias,
        # The units start at N(0, 0.01), close to the identity.
        kernel_initializer=_fan_in_uniform()
        if stride == 2
        else keras.initializers.RandomNormal(stddev=0.01),
        name=f"conv{suffix}",
    )(x)
    return prelu(x, f"relu{suffix}")


def _fan_in_uniform() -> keras.initializers.Initializer:
    """Return Caffe's "xavier": uniform within `+-sqrt(3 / fan_in)`, which is not Glorot's."""
    return keras.initializers.VarianceScaling(1.0, mode="fan_in", distribution="uniform")
