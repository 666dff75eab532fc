"""A network that is traced in a third of the time, for tests of what a run does around it."""

from __future__ import annotations

import keras
import pytest

from tf_sphereface import backbones
from tf_sphereface.backbones.common import embedding_dtype


def small_net(depth, input_shape, embedding_dim):
    """Stand for SphereFaceNet: one convolution with a PReLU, and the embedding layer."""
    layers = keras.layers
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(4, 3, strides=4, name="conv1_1")(image)
    x = layers.PReLU(shared_axes=[1, 2], name="relu1_1")(x)
    x = layers.Flatten(name="flatten")(x)
    embedding = layers.Dense(embedding_dim, dtype=embedding_dtype(), name="fc5")(x)
    return keras.Model(image, embedding, name=f"sphereface{depth}")


@pytest.fixture
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recipes of SphereFaceNet build `small_net`."""
    monkeypatch.setattr(backbones, "SphereFaceNet", small_net)
