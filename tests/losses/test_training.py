"""Every loss trains, in a stock Keras model and in FaceClassifier, and comes back from a file."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense

LOSSES = {
    "normface": losses.NormFaceLoss(16.0),
    "cosface": losses.CosFaceLoss(16.0, 0.2),
    "arcface": losses.ArcFaceLoss(16.0, 0.3),
    "v0": losses.SphereFaceRLoss("v0", scale=16.0),
    "v1": losses.SphereFaceRLoss("v1", scale=16.0),
    "v2": losses.SphereFaceRLoss("v2", scale=16.0),
    "sphereface2": losses.SphereFace2Loss(),
}
# Each loss under one policy; tests/losses/test_family.py has them all under XLA.
CASES = [
    ("normface", "float32", False),
    ("cosface", "mixed_float16", False),
    ("arcface", "mixed_bfloat16", False),
    ("v0", "mixed_float16", False),
    ("v1", "float32", False),
    ("v2", "mixed_bfloat16", False),
    ("sphereface2", "mixed_float16", False),
]


def data() -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 64)
    images = rng.normal(size=(4, 8))[labels] + 0.3 * rng.normal(size=(64, 8))
    dataset = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    return dataset.batch(16, drop_remainder=True)


def backbone() -> keras.Model:
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(6)(hidden))


def build(kind: str, name: str, jit_compile: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    biased = LOSSES[name].needs_shared_bias
    if kind == "classifier":
        head = "sphereface2" if biased else "angular"
        model: keras.Model = FaceClassifier(backbone(), num_classes=4, head=head)
    else:
        base = backbone()
        layer = AngularDense(4, shared_bias="sphereface2" if biased else None)
        model = keras.Model(base.input, layer(base.output))
    sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(sgd, loss=LOSSES[name], metrics=["accuracy"], jit_compile=jit_compile)
    return model


@pytest.mark.parametrize("kind", ["stock", "classifier"])
@pytest.mark.parametrize(("name", "policy", "jit_compile"), CASES)
def test_trains_saves_and_goes_on(kind, name, policy, jit_compile, tmp_path: Path):
    keras.config.set_dtype_policy(policy)
    model = build(kind, name, jit_compile)
    history = model.fit(data(), epochs=6, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.6  # chance is 0.25
    assert set(history) == {"loss", "accuracy"}  # no lambda: nothing is annealed
    if kind == "stock" and name not in ("arcface", "sphereface2"):
        return  # the same code brings them back
    before = model.evaluate(data(), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(loaded.evaluate(data(), verbose=0), before, rtol=1e-6)


@pytest.mark.parametrize("name", ["sphereface2"])
def test_the_classifier_equals_the_stock_model(name):
    stock, ours = build("stock", name), build("classifier", name)
    ours.set_weights(stock.get_weights())
    for model in (stock, ours):
        model.fit(data(), epochs=2, verbose=0, shuffle=False)
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)  # float32 sums


@pytest.mark.parametrize(("name", "jit_compile"), [("sphereface2", True)])
def test_mirrored_strategy_equals_one_device(name, jit_compile, two_replicas):
    single = build("classifier", name)
    with two_replicas.scope():
        mirrored = build("classifier", name, jit_compile)
    mirrored.set_weights(single.get_weights())
    for model in (single, mirrored):
        model.fit(data(), epochs=2, verbose=0, shuffle=False)
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)  # float32 sums
