"""Every loss trains, in a stock Keras model or in FaceClassifier, and comes back from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses, metrics
from tf_sphereface.layers import AngularDense

LOSSES = {
    "normface": losses.NormFaceLoss(16.0),
    "cosface": losses.CosFaceLoss(16.0, 0.2),
    "arcface": losses.ArcFaceLoss(16.0, 0.3),
    "v0": losses.SphereFaceRLoss("v0", scale=16.0),
    "v1": losses.SphereFaceRLoss("v1", scale=16.0),
    "v2": losses.SphereFaceRLoss("v2", scale=16.0),
    "adaface": losses.AdaFaceLoss(16.0, 0.2),
    "magface": losses.MagFaceLoss(16.0, lower_norm=0.5, upper_norm=20.0, regularizer=1.0),
    "curricularface": losses.CurricularFaceLoss(16.0, 0.3),
    "sphereface2": losses.SphereFace2Loss(),
}
# Each loss under one policy, and two of them in both kinds of model;
# tests/losses/test_family.py has them all under XLA.
CASES = [
    ("stock", "normface", "float32"),
    ("classifier", "cosface", "mixed_float16"),
    ("stock", "arcface", "mixed_bfloat16"),
    ("classifier", "arcface", "mixed_bfloat16"),
    ("stock", "v0", "mixed_float16"),
    ("classifier", "v1", "float32"),
    ("classifier", "v2", "mixed_bfloat16"),
    ("stock", "adaface", "mixed_float16"),
    ("classifier", "adaface", "mixed_float16"),
    ("stock", "magface", "mixed_bfloat16"),
    ("classifier", "curricularface", "float32"),
    ("stock", "sphereface2", "mixed_float16"),
    ("classifier", "sphereface2", "mixed_float16"),
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


@pytest.mark.parametrize(("kind", "name", "policy"), CASES)
def test_trains_saves_and_goes_on(kind, name, policy, tmp_path: Path):
    keras.config.set_dtype_policy(policy)
    model = build(kind, name)
    history = model.fit(data(), epochs=6, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.6  # chance is 0.25
    assert set(history) == {"loss", "accuracy"}  # no lambda: nothing is annealed
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    model.run_eagerly = loaded.run_eagerly = True  # cheaper than two graphs for a batch
    before = model.evaluate(data().take(1), verbose=0)
    assert loaded.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(loaded.evaluate(data().take(1), verbose=0), before, rtol=1e-6)


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


@pytest.fixture
def checked_numerics() -> Iterator[None]:
    tf.debugging.enable_check_numerics()
    with np.printoptions(threshold=0, edgeitems=1):  # each value is written for a message
        yield
    tf.debugging.disable_check_numerics()


HEALTHY = {
    **{name: (LOSSES[name], {}) for name in LOSSES if name != "sphereface2"},
    **{f"{v} exact": (losses.SphereFaceRLoss(v, detach=False), {}) for v in ("v0", "v1", "v2")},
    "sphereface2": (LOSSES["sphereface2"], {"head": "sphereface2"}),
    "a_softmax": (losses.ASoftmaxLoss(4), {}),
    "caffe": (losses.ASoftmaxLoss(4), {"gradient": "caffe"}),
    "sampled": (losses.CosFaceLoss(), {"sample_rate": 6 / 32}),
    "softmax": (None, {"head": "softmax"}),
}


def fit_healthy(name: str, eagerly: bool) -> None:
    """Train for one step, which is slow in eager mode, or for two."""
    loss, options = HEALTHY[name]
    image = keras.Input((6, 6, 3))
    x = keras.layers.PReLU(shared_axes=[1, 2])(
        keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image))
    )
    network = keras.Model(image, keras.layers.Dense(6)(keras.layers.Flatten()(x)))
    classes = 32 if name == "sampled" else 8
    model = FaceClassifier(network, num_classes=classes, **options)
    extra = [] if name == "softmax" else [metrics.MeanTargetAngle(), metrics.EqualErrorRate()]
    model.compile("sgd", loss=loss, metrics=["accuracy", *extra], run_eagerly=eagerly)
    count = 6 if eagerly else 12
    images = np.random.default_rng(0).normal(size=(count, 6, 6, 3)).astype("float32")
    model.fit(images, np.arange(count) % 5, batch_size=6, verbose=0)


@pytest.mark.usefixtures("checked_numerics")
@pytest.mark.parametrize("name", list(HEALTHY))
def test_no_number_on_the_way_is_infinite_or_nan(name):
    fit_healthy(name, eagerly=True)


@pytest.mark.usefixtures("checked_numerics")
@pytest.mark.parametrize("name", ["a_softmax", "sphereface2", "sampled"])
def test_numbers_are_checked_in_graphs_too(name):
    """Where PReLU runs without XLA, which cannot compile the checks."""
    fit_healthy(name, eagerly=False)


def test_a_wrong_label_still_gives_nan():
    outputs = AngularDense(4)(keras.random.normal((3, 5)))
    for name, loss in LOSSES.items():
        if name != "sphereface2":
            values = loss.per_example(tf.constant([1, 4, -1]), outputs).numpy()
            assert np.isfinite(values).tolist() == [True, False, False]
