"""Layers that XLA cannot compile, and those that it can, in the backbone of a classifier."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses

SHAPE = (12, 10, 3)
L = keras.layers


class Noise(keras.layers.Layer):
    """A layer of a user's own, with a random state."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.generator)


class InPython(keras.layers.Layer):
    """A layer that leaves TensorFlow's graph."""

    def call(self, inputs):
        outputs = tf.numpy_function(lambda x: x + 1, [inputs], tf.float32)
        outputs.set_shape(inputs.shape)
        return outputs


def classifier(*layers, nested: bool = False) -> FaceClassifier:
    image = keras.Input(SHAPE)
    hidden = image
    if nested:
        hidden = keras.Sequential([keras.Input(SHAPE), *layers])(hidden)
    else:
        for layer in layers:
            hidden = layer(hidden)
    hidden = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(hidden))
    return FaceClassifier(keras.Model(image, L.Dense(5)(hidden)), 3)


def faces() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype("float32")
    return x, np.arange(6) % 3


@pytest.mark.parametrize(
    ("layer", "nested"),
    [
        (lambda: L.RandomRotation(0.1), False),
        (lambda: L.RandomRotation(0.1), True),
        (lambda: L.RandomZoom(0.1), False),
        (lambda: L.RandomTranslation(0.1, 0.1), True),
        (InPython, False),
        (InPython, True),
    ],
)
def test_what_xla_cannot_compile_trains_without_it_and_is_named(layer, nested):
    layer = layer()
    model = classifier(L.RandomFlip("horizontal"), layer, nested=nested)
    with pytest.warns(UserWarning, match=f"jit_compile=True has no effect.*{type(layer).__name__}"):
        model.compile("sgd", loss=losses.CosFaceLoss(), jit_compile=True)
    assert not model.uses_xla
    assert layer.name in model.xla_reason
    assert "RandomFlip" not in model.xla_reason
    assert np.isfinite(model.fit(*faces(), verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: (
            L.RandomFlip("horizontal"),
            L.RandomContrast(0.2, value_range=(-1, 1)),
            L.SpatialDropout2D(0.2),
            L.Rescaling(2.0),
            Noise(),
        ),
        lambda: (
            L.GaussianNoise(0.1),
            L.Normalization(mean=0.5, variance=2.0),
            L.Resizing(8, 8),
            L.RandomErasing(value_range=(-1, 1)),
            L.Dropout(0.3),
        ),
    ],
)
def test_what_xla_compiles_in_the_network_trains_and_its_random_states_move(make):
    model = classifier(*make())
    model.compile("sgd", loss=losses.CosFaceLoss(), jit_compile=True)
    assert model.uses_xla
    weights = {id(variable) for variable in model.weights}
    states = [variable for variable in model.variables if id(variable) not in weights]
    before = [np.asarray(variable.value) for variable in states]
    assert len(states) >= 3  # seeds
    assert np.isfinite(model.fit(*faces(), batch_size=3, verbose=0).history["loss"][0])
    for variable, value in zip(states, before, strict=True):
        assert not np.array_equal(variable.value, value)


def test_a_saved_model_decides_anew(tmp_path):
    model = classifier(L.RandomRotation(0.1, seed=3))
    with pytest.warns(UserWarning, match="RandomRotation"):
        model.compile("sgd", loss=losses.CosFaceLoss(), jit_compile=True)
    model.fit(*faces(), verbose=0)
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="RandomRotation"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    assert not loaded.uses_xla
    histories = [one.fit(*faces(), verbose=0).history for one in (model, loaded)]
    assert histories[0] == histories[1]  # the same rotations, from the state that was saved


def test_a_sequential_backbone_is_tried_out_too():
    layers = [L.RandomZoom(0.1), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(5)]
    model = FaceClassifier(keras.Sequential([keras.Input(SHAPE), *layers]), 3)
    with pytest.warns(UserWarning, match="RandomZoom"):
        model.compile("sgd", loss=losses.CosFaceLoss(), jit_compile=True)
    assert np.isfinite(model.fit(*faces(), verbose=0).history["loss"][0])


@pytest.mark.parametrize("layer", [L.MixUp, L.CutMix])
def test_images_that_are_mixed_under_labels_that_are_not_are_said(layer):
    with pytest.warns(UserWarning, match="mixes images of different people"):
        classifier(L.RandomFlip(), layer())
