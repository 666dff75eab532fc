"""What the export's tests share: two small networks and synthetic faces."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tf_sphereface.backbones import MobileFaceNet, SphereFaceNet
from tf_sphereface.data import synthetic

SIZE = (56, 48)


def known(net: keras.Model) -> keras.Model:
    """Return the network with an input whose name tells how it is fed."""
    image = keras.Input(net.input_shape[1:], name=KNOWN)
    copy = keras.models.clone_model(net, input_tensors=image)
    copy.set_weights(net.get_weights())
    return copy


@pytest.fixture(scope="session")
def faces() -> np.ndarray:
    """48 people, to calibrate with."""
    return synthetic.faces(np.arange(48), 0, seed=3, size=SIZE)


@pytest.fixture(scope="session")
def other_faces() -> np.ndarray:
    """20 more people, whom no calibration has seen."""
    return synthetic.faces(np.arange(100, 120), 0, seed=3, size=SIZE)


@pytest.fixture(scope="session")
def small_net() -> keras.Model:
    keras.utils.set_random_seed(1)
    return known(SphereFaceNet(4, (*SIZE, 3), 64))


@pytest.fixture(scope="session")
def mobile_net(faces: np.ndarray) -> keras.Model:
    """A MobileFaceNet whose batch statistics fit the faces, so that folding them is put to test."""
    keras.utils.set_random_seed(2)
    net = known(MobileFaceNet((*SIZE, 3), 64))
    images = (faces[:16].astype(np.float32) - 127.5) / 128
    for _ in range(12):  # the moving averages' weight of their start is 0.9 ** 12 = 0.28
        net(images, training=True)
    return net


@pytest.fixture(scope="session")
def tiny_net() -> keras.Model:
    """A network that converts in a second, for tests of everything around the conversion."""
    keras.utils.set_random_seed(3)
    image = keras.Input((*SIZE, 3), name=KNOWN)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(16, name="fc5")(x), name="tiny")
