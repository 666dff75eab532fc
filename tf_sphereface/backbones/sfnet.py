"""SFNet: the SphereFace networks as opensphere builds them, with ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.backbones.common import check_input_shape, embedding_dtype, he_fan_out
from tf_sphereface.backbones.iresnet import ResidualLayers
from tf_sphereface.backbones.sphereface import CHANNELS, UNITS
from tf_sphereface.utils.checks import check_choice, check_integer


def SFNet(  # noqa: N802  (named as Keras' own applications are)
    depth: int = 20,
    input_shape: Sequence[int] = (112, 112, 3),
    embedding_dim: int = 512,
    name: str | None = None,
    *,
    batch_norm: bool = False,
    synchronized_bn: bool = False,
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
        synchronized_bn: average the batch statistics over all replicas of a `tf.distribute`
            strategy; with `batch_norm`.
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

    layers = _Layers(synchronized_bn, he_fan_out())
    image = keras.Input(shape, name="image")
    x = image
    for stage, (channels, count) in enumerate(zip(CHANNELS, UNITS[depth], strict=True), start=1):
        x = layers.convolved(x, channels, f"layer{stage}_0_conv1", batch_norm, stride=2)
        x = layers.relu(x, f"layer{stage}_0_relu")
        for unit in range(1, count + 1):
            block = f"layer{stage}_{unit}"
            y = layers.convolved(x, channels, f"{block}_conv1", batch_norm)
            y = layers.relu(y, f"{block}_relu1")
            y = layers.convolved(y, channels, f"{block}_conv2", batch_norm)
            if activation_after_add:
                x = layers.relu(keras.layers.Add(name=f"{block}_add")([y, x]), f"{block}_relu")
            else:
                x = keras.layers.Add(name=f"{block}_add")([layers.relu(y, f"{block}_relu2"), x])
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(x)
    x = keras.layers.Dense(embedding_dim, dtype=embedding_dtype(), name="fc")(x)
    if batch_norm:
        x = layers.normalize(x, "features", dtype=embedding_dtype())
    return keras.Model(image, x, name=name or f"sfnet{depth}")


class _Layers(ResidualLayers):
    """The parts of the network."""

    def relu(self, x: Any, name: str) -> Any:
        """Apply a ReLU."""
        return keras.layers.ReLU(name=name)(x)

    def convolved(
        self, x: Any, channels: int, name: str, batch_norm: bool, *, stride: int = 1
    ) -> Any:
        """Apply a 3x3 convolution with a bias, or with batch normalization."""
        x = self.convolution(x, channels, name, stride=stride, use_bias=not batch_norm)
        return self.normalize(x, name.replace("conv", "bn")) if batch_norm else x
