"""The flag `jit_compile` does what it says, and what cannot work is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier
from tf_sphereface.classifier import xla
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import AdaFaceLoss, ASoftmaxLoss


class Unsupported(keras.layers.Layer):
    """An operation that TensorFlow has and XLA has not: it makes strings."""

    def call(self, inputs):
        return inputs + 0.0 * tf.strings.to_number(tf.strings.as_string(inputs[0, 0]))


def classifier(jit_compile: bool | str, *extra: keras.layers.Layer) -> FaceClassifier:
    layers = [keras.Input((8,)), keras.layers.Dense(6), *extra, keras.layers.Dense(4)]
    model = FaceClassifier(keras.Sequential(layers), num_classes=5)
    model.compile(keras.optimizers.SGD(0.1), loss=ASoftmaxLoss(), jit_compile=jit_compile)
    return model


def batches(count: int = 16, size: int = 8, **options: bool) -> tf.data.Dataset:
    images = np.random.default_rng(0).normal(size=(count, 8)).astype("float32")
    pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(count) % 5))
    return pairs.batch(size, **options)


def test_the_step_really_goes_through_xla(monkeypatch):
    """What XLA cannot compile fails with it, and only with it, if it is not tried out before."""
    monkeypatch.setattr(xla, "_obstacle", lambda backbone: "")
    without, compiled = classifier(False, Unsupported()), classifier(True, Unsupported())
    assert np.isfinite(without.fit(batches(), verbose=0).history["loss"][0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        compiled.fit(batches(), verbose=0)


def test_auto_follows_the_hardware_and_says_why(monkeypatch, caplog):
    caplog.set_level("INFO", logger="tf_sphereface")
    model = classifier("auto")
    assert model.xla_reason in caplog.text
    net = model.backbone
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert xla.decide("auto", False, net, 1) == (
        False,
        "off, no GPU (on a CPU it is slower than without)",
    )
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0", "GPU:1"])
    assert xla.decide("auto", False, net, 2) == (True, "on, 2 GPU(s)")
    assert xla.decide("auto", True, net, 2)[0] is False
    synchronised = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(synchronized=True)]
    )
    assert xla.decide("auto", False, synchronised, 1)[0] is True
    uses, why = xla.decide("auto", False, synchronised, 2)
    assert not uses
    assert "1 synchronised" in why
    assert xla.decide("auto", False, net, 1, AdaFaceLoss())[0] is True
    uses, why = xla.decide("auto", False, net, 2, AdaFaceLoss())
    assert (uses, why) == (False, "off, AdaFaceLoss sums over the replicas")


def test_synchronised_normalisation_under_xla_is_refused(two_replicas):
    with two_replicas.scope(), pytest.raises(ValueError, match=r"synchronised .* \['shared'\]"):
        classifier(True, keras.layers.BatchNormalization(synchronized=True, name="shared"))
    classifier(True, keras.layers.BatchNormalization(synchronized=True))  # one replica: nothing


def test_a_batch_smaller_than_the_replicas(two_replicas):
    with two_replicas.scope():
        model = classifier(False)
    with pytest.raises(ValueError, match=r"fewer examples than the strategy has replicas, 2"):
        model.fit(batches(count=3, size=1), verbose=0)
    assert np.isfinite(model.evaluate(batches(count=3, size=1), verbose=0))  # there it is no harm


@pytest.mark.parametrize("jit_compile", [False, True])
def test_batch_statistics_of_no_example_are_refused(jit_compile, two_replicas):
    """17 examples leave one for two replicas. Statistics of none were NaN, in all weights."""
    with two_replicas.scope():
        model = classifier(jit_compile, keras.layers.BatchNormalization(name="own"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        model.fit(batches(17), verbose=0, shuffle=False)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    model.fit(batches(18), verbose=0)
    mean = model.backbone.get_layer("own").moving_mean
    values = [v.numpy() for v in two_replicas.experimental_local_results(mean.value)]
    assert np.abs(values[0]).max() > 0
    np.testing.assert_array_equal(values[0], values[1])  # one network, whatever each replica saw
    if jit_compile:  # each replica calls a function that XLA has compiled for its device
        traced = model._gradient_function._list_all_concrete_functions()
        assert len(traced) >= 1
        assert all(function.function_def.attr["_XlaMustCompile"].b for function in traced)


@pytest.mark.parametrize(("count", "jit_compile"), [(13, False), (9, True)])
def test_a_last_batch_that_is_not_full_weighs_each_example_alike(count, jit_compile, two_replicas):
    """5 examples are 3 and 2: the mean over them, not of two means; 1 is 1 and none."""
    single = classifier(False)
    with two_replicas.scope():
        mirrored = classifier(jit_compile)
    mirrored.set_weights(single.get_weights())
    losses = [
        model.fit(batches(count), verbose=0, shuffle=False).history["loss"]
        for model in (single, mirrored)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # float32 sums


def test_what_cannot_work_says_so(two_replicas):
    with two_replicas.scope():
        net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model = FaceClassifier(net, num_classes=5)
        with pytest.raises(ValueError, match="steps_per_execution must be 1"):
            model.compile("sgd", steps_per_execution=2)
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        )
        with pytest.raises(ValueError, match="mixed_bfloat16"):
            model.compile(optimizer)
        stock = keras.Sequential([keras.Input((8,)), AngularDense(5)])
        loss = ASoftmaxLoss(margin=1)
        stock.compile("sgd", loss=loss, jit_compile=True)
    with pytest.raises(ValueError, match=r"Use tf_sphereface\.FaceClassifier"):
        stock.fit(batches(), verbose=0)
