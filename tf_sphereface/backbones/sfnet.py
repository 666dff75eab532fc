"""SFNet: the SphereFace networks as opensphere builds them, with ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import (
    check_input_shape,
    embedding_dtype,
    halve,
    he_fan_out,
)
from tf_sphereface.backbones.sphereface import CHANNELS, UNITS
from tf_sphereface.utils.checks import check_choice, check_integer


def SFNet(  # noqa: N802  (named as Keras' own applications are)
    depth: int = 20,
    input_shape: Sequence[int] = (112, 112, 3),
    embedding_dim: int = 512,
    name: str | None = None,
    *,
    batch_norm: bool = False,
    activation_after_add: bool = True,
) -> keras.Model:
    """Build an SFNet: the stages of `SphereFaceNet`, with ReLU in place of PReLU.

    A stage is a 3x3 convolution of stride 2 and a ReLU, then units
    `ReLU(x + conv(ReLU(conv(x))))`, where `SphereFaceNet` has nothing after the addition.
    Convolutions have a bias, or batch normalization after them.

    Args:
        depth: convolutions: 4, 10, 20, 36 or 64.
        input_shape: height, width, channels. At least 16 pixels high and wide; the map before `fc`
            is a sixteenth of each, rounded up.
        embedding_dim: length of the embedding.
        name: the model's name, by default `sfnet{depth}`.
        batch_norm: batch normalization after each convolution, in place of its bias, and on the
            embedding.
        activation_after_add: False for opensphere's older network, whose units are
            `x + ReLU(conv(ReLU(conv(x))))`, as the paper's.

    Returns:
        A functional model of stock Keras layers: an input named `image`, float32
        `(batch, height, width, channels)` in `[-1, 1]`, to an embedding
        `(batch, embedding_dim)`, not normalised, float32 under mixed precision too. Layers are
        named as the tensors of opensphere's files: `layer{stage}_{unit}_conv1`, `fc`.

    Raises:
        ValueError: an unknown depth, an image too small, or a shape of another rank.

    Example:

    >>> SFNet(4, input_shape=(56, 48, 3), embedding_dim=128).output_shape
    (None, 128)

    Source: the code of opensphere, by authors of Liu et al., "SphereFace Revived: Unifying
    Hyperspherical Face Recognition", TPAMI 2022.
    """
    check_choice("depth", depth, tuple(UNITS))
    shape = check_input_shape(input_shape, minimum=16)
    embedding_dim = check_integer("embedding_dim", embedding_dim, 1)

    def relu(x: Any, layer: str) -> Any:
        return keras.layers.ReLU(name=layer)(x)

    image = keras.Input(shape, name="image")
    x = image
    for stage, (channels, count) in enumerate(zip(CHANNELS, UNITS[depth], strict=True), start=1):
        first = f"layer{stage}_0"
        x = halve(x, name=f"{first}_pad")
        x = _convolution(x, channels, f"{first}_conv1", stride=2, batch_norm=batch_norm)
        x = relu(x, f"{first}_relu")
        for unit in range(1, count + 1):
            block = f"layer{stage}_{unit}"
            y = _convolution(x, channels, f"{block}_conv1", stride=1, batch_norm=batch_norm)
            y = relu(y, f"{block}_relu1")
            y = _convolution(y, channels, f"{block}_conv2", stride=1, batch_norm=batch_norm)
            if activation_after_add:
                x = relu(keras.layers.Add(name=f"{block}_add")([y, x]), f"{block}_relu")
            else:
                x = keras.layers.Add(name=f"{block}_add")([relu(y, f"{block}_relu2"), x])
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(x)
    x = keras.layers.Dense(embedding_dim, dtype=embedding_dtype(), name="fc")(x)
    if batch_norm:
        x = _normalize(x, "features", dtype=embedding_dtype())
    return keras.Model(image, x, name=name or f"sfnet{depth}")


def _convolution(x: Any, channels: int, name: str, *, stride: int, batch_norm: bool) -> Any:
    """Apply a 3x3 convolution with a bias, or with batch normalization."""
    x = keras.layers.Conv2D(
        channels,
        3,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        data_format="channels_last",
        use_bias=not batch_norm,
        kernel_initializer=he_fan_out(),
        name=name,
    )(x)
    return _normalize(x, name.replace("conv", "bn")) if batch_norm else x


def _normalize(x: Any, name: str, dtype: str | None = None) -> Any:
    return keras.layers.BatchNormalization(
        axis=-1, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )(x)
