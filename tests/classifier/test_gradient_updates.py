"""The update of a step is the same where XLA compiles it, as on a GPU."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses, optimizers
from tf_sphereface.classifier import gradient_updates, xla
from tf_sphereface.training.freezing import Freezing

OPTIMIZERS = {
    "sgd": lambda: optimizers.SphereFaceSGD(
        optimizers.WarmUpDecay(0.05, 12, warm_up=2), global_clipnorm=1.0
    ),
    "adamw": lambda: optimizers.FaceAdamW(1e-3, use_ema=True, ema_overwrite_frequency=3),
    "muon": lambda: optimizers.FaceMuon(1e-2),
    "accumulated": lambda: keras.optimizers.SGD(0.05, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.05), initial_scale=4, dynamic_growth_steps=2
    ),
}


def outside_the_step(function):
    """Whether it is the update alone: XLA compiles a step's gradients in another function."""
    return "apply_gradients" in function.__qualname__


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_xla_updates_as_tensorflow_does(name, jit, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 6, 6, 3)).astype("float32"), np.arange(12) % 3
    compiled, found = [], []
    monkeypatch.setattr(
        gradient_updates.xla, "compiled", lambda f, old=xla.compiled: compiled.append(f) or old(f)
    )
    for as_on_a_gpu in (False, True):
        monkeypatch.setattr(gradient_updates, "_are_on_one_gpu", lambda _, on=as_on_a_gpu: on)
        keras.utils.set_random_seed(2)
        image = keras.Input((6, 6, 3))
        features = keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(image))
        model = FaceClassifier(keras.Model(image, keras.layers.Dense(6)(features)), 3)
        loss = losses.CosFaceLoss(scale=8)
        model.compile(OPTIMIZERS[name](), loss=loss, jit_compile=jit)
        model.fit(x, y, batch_size=4, epochs=4, shuffle=False, verbose=0)
        assert any(map(outside_the_step, compiled)) is as_on_a_gpu
        found.append([*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)])
    for plain, by_xla in zip(*found, strict=True):
        np.testing.assert_allclose(by_xla, plain, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_the_update_is_tensorflows(monkeypatch):
    monkeypatch.setattr(gradient_updates.xla, "compiled", pytest.fail)
    inputs = keras.Input((4,))
    model = FaceClassifier(keras.Model(inputs, keras.layers.Dense(3)(inputs)), 2)
    model.compile("sgd", jit_compile=False)
    model.fit(np.ones((2, 4), "float32"), np.array([0, 1]), verbose=0)


def test_an_optimizer_of_ones_own_is_not_compiled(monkeypatch, tmp_path):
    """XLA may not have its operations."""

    class Printing(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            tf.print(tf.reduce_sum(gradient), output_stream=printed)
            super().update_step(gradient, variable, learning_rate)

    printed = f"file://{tmp_path / 'printed'}"
    monkeypatch.setattr(gradient_updates, "_are_on_one_gpu", lambda _: True)
    inputs = keras.Input((4,))
    model = FaceClassifier(keras.Model(inputs, keras.layers.Dense(3)(inputs)), 2)
    model.compile(Printing(0.1), jit_compile=False)
    model.fit(np.ones((2, 4), "float32"), np.array([0, 1]), verbose=0)
    assert (tmp_path / "printed").read_text()


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, optimizers.FaceAdamW])
def test_adam_corrects_its_bias_by_updates_under_a_strategy(kind, two_replicas):
    """Keras divides the count of batches by the steps that are accumulated."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype("float32"), np.arange(64) % 4
    weights, classes = {}, {}
    for name, strategy in (("one", tf.distribute.get_strategy()), ("two", two_replicas)):
        with strategy.scope():
            keras.utils.set_random_seed(3)
            inputs = keras.Input((8,))
            model = FaceClassifier(keras.Model(inputs, keras.layers.Dense(6)(inputs)), 4)
            optimizer = kind(0.01, gradient_accumulation_steps=2)
            model.compile(optimizer, loss=losses.CosFaceLoss(8.0), jit_compile=False)
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights[name], classes[name] = model.get_weights(), type(optimizer)
        assert int(optimizer.iterations) == 4
    assert classes["two"] is classes["one"] is kind
    for one, two in zip(weights["one"], weights["two"], strict=True):
        # Adam divides by the root of tiny second moments: rounding grows
        np.testing.assert_allclose(two, one, atol=1e-4)


def test_compiled_outside_of_the_scope_it_takes_the_step_of_one_device(two_replicas):
    """As stock Keras does; gradients summed by the step and by Keras would be twice as large."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)).astype("float32"), np.arange(8) % 3

    def made():
        keras.utils.set_random_seed(0)
        image = keras.Input((6,))
        return FaceClassifier(keras.Model(image, keras.layers.Dense(4)(image)), 3)

    def step(model):
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(0.1), loss=losses.CosFaceLoss(8.0, 0.1))
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
        return [after - b for after, b in zip(model.get_weights(), before, strict=True)]

    expected = step(made())
    with two_replicas.scope():
        model = made()
    for moved, one in zip(step(model), expected, strict=True):
        np.testing.assert_allclose(moved, one, atol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_a_sampled_head_under_a_strategy_is_released_from_a_frozen_body(two_replicas, jit):
    """Keras calls callbacks outside of the scope: the step is made again for two replicas."""
    with two_replicas.scope():
        image = keras.Input((6,))
        backbone = keras.Model(image, keras.layers.Dense(4)(image))
        model = FaceClassifier(backbone, 32, sample_rate=0.5)
        model.compile("sgd", loss=losses.CosFaceLoss(), jit_compile=jit)
    x, y = np.ones((8, 6), "float32"), np.arange(8)
    freezing = Freezing(model, 1)
    before = backbone.get_weights()[0]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[freezing])
    assert (backbone.get_weights()[0] != before).any()
