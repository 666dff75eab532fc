"""Whose updates lambda follows, and arguments that are set too late."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.callbacks import AngularLogs, TrainingDoctor
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss
from tf_sphereface.schedules import LambdaAnnealing

OTHER = "counts the updates of another optimizer"
X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = np.arange(16) % 4


def network() -> keras.Model:
    inputs = keras.Input((8,))
    return keras.Model(inputs, AngularDense(4)(keras.layers.Dense(6)(inputs)))


def trained() -> tuple[keras.Model, ASoftmaxLoss]:
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    model.compile(optimizer, loss=ASoftmaxLoss(4, step=optimizer), run_eagerly=True)
    fit(model)
    return model, model.loss


def fit(model: keras.Model, *callbacks: Any, **options: Any) -> dict[str, list[float]]:
    options = {"batch_size": 8, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options).history


def compiled_anew(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    model.compile(keras.optimizers.SGD(0.01), loss=loss)
    return model


def rebuilt_optimizer(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    model.compile(keras.optimizers.SGD.from_config(model.optimizer.get_config()), loss=loss)
    return model


def next_fold(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    return compiled_anew(network(), loss, path)


def loaded_without_compiling(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    model.save(path / "m.keras")
    return compiled_anew(keras.models.load_model(path / "m.keras", compile=False), loss, path)


def wrapped(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    inner = keras.optimizers.SGD(0.01)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), loss=loss)
    return model


def its_count(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    return compiled_anew(model, ASoftmaxLoss(4, step=model.optimizer.iterations), path)


def one_of_two_outputs(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    inputs = keras.Input((8,))
    outputs = [AngularDense(4)(keras.layers.Dense(6)(inputs)) for _ in range(2)]
    other = keras.Model(inputs, outputs)
    other.compile("sgd", loss=[losses.CosFaceLoss(8.0), loss])
    return other


class Subclassed(keras.Model):
    """A model whose `call` does not know whether it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = keras.layers.Dense(6), AngularDense(4)

    def call(self, inputs: Any) -> Any:
        return self.head(self.embedding(inputs))


def subclassed(model: keras.Model, loss: Any, path: Path) -> keras.Model:
    return compiled_anew(Subclassed(), loss, path)


WAYS = [
    subclassed,
    compiled_anew,
    rebuilt_optimizer,
    next_fold,
    loaded_without_compiling,
    wrapped,
    its_count,
    one_of_two_outputs,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_follows_another_optimizer_is_refused_in_training(way, tmp_path):
    model = way(*trained(), tmp_path)
    y = [Y, Y] if way is one_of_two_outputs else Y
    model.evaluate(X, y, verbose=0)  # nothing is wrong with that
    before = [w.copy() for w in model.get_weights()]
    for train in (
        lambda: model.fit(X, y, verbose=0),
        lambda: model.train_on_batch(X, y),
        lambda: model.fit(X, y, verbose=0, callbacks=[AngularLogs()]),
    ):
        with pytest.raises(ValueError, match=OTHER):
            train()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    losses.bind_step(model)
    history = model.fit(X, y, verbose=0, epochs=3, callbacks=[AngularLogs()]).history
    assert history["lambda"][2] < history["lambda"][0]


def test_of_two_models_that_share_a_loss_one_is_refused():
    first, loss = trained()
    second = compiled_anew(network(), loss, Path())
    fit(first)
    with pytest.raises(ValueError, match=OTHER):
        second.fit(X, Y, verbose=0, batch_size=4)


@pytest.mark.parametrize("bound", ["inner", "wrapper", "inner of its own", "one of several"])
def test_a_wrapper_and_the_optimizer_inside_are_one(bound):
    model, inner = network(), keras.optimizers.SGD(0.1)
    if bound == "one of several":
        other = keras.optimizers.SGD(0.1)
        outer = keras.optimizers.MultiOptimizer(lambda v: inner if "angular" in v.path else other)
    elif bound == "inner of its own":  # Keras wraps it, as under mixed_float16
        outer = inner
        keras.config.set_dtype_policy("mixed_float16")
        model = network()
    else:
        outer = keras.optimizers.LossScaleOptimizer(inner)
    model.compile(outer, loss=ASoftmaxLoss(4, step=outer if bound == "wrapper" else inner))
    history = fit(model, AngularLogs(), epochs=3)
    assert history["lambda"][2] < history["lambda"][0]


def test_steps_that_overflow_and_steps_that_accumulate_raise_no_alarm():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=3e38)
    model = network()
    model.compile(optimizer, loss=ASoftmaxLoss(4, step=optimizer))
    history = model.fit(X * 1e6, Y, callbacks=[AngularLogs()], epochs=3, verbose=0).history
    assert int(optimizer.iterations) == 0
    assert len(set(history["lambda"])) == 1
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=8)
    model.compile(optimizer, loss=ASoftmaxLoss(4, step=optimizer))
    fit(model, AngularLogs(), epochs=2)  # four of eight


def test_a_loop_of_ones_own_is_left_alone():
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    model.compile(loss=ASoftmaxLoss(4, step=optimizer))  # for evaluate, with Keras' optimizer

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            value = model.loss(Y, model(X, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    step()
    model.evaluate(X, Y, verbose=0)
    assert int(optimizer.iterations) == 1


def test_a_callable_that_stands_still_is_warned_about():
    model = network()
    model.compile("sgd", loss=ASoftmaxLoss(4, step=lambda: tf.constant(3)))
    with pytest.warns(UserWarning, match=r"lambda stood still at 675\.7 through 4 updates"):
        fit(model, AngularLogs(), epochs=3)
    model.compile("sgd", loss=ASoftmaxLoss(4, step=3))  # on purpose
    fit(model, AngularLogs(), epochs=3)
    at_minimum = LambdaAnnealing(minimum=999.0)
    model.compile("sgd", loss=ASoftmaxLoss(4, at_minimum, step=lambda: tf.constant(3)))
    fit(model, AngularLogs(), epochs=3)


def test_lambda_that_begins_anew_in_a_trained_model_is_warned_about(tmp_path):
    """As after load_model(compile=False), where nothing of the optimizer is left."""
    labels = np.arange(64) % 16
    images = np.eye(16, dtype="float32")[labels]
    inputs = keras.Input((16,))
    model = keras.Model(inputs, AngularDense(16, kernel_initializer="identity")(inputs))

    def fit_anew(*callbacks: Any) -> None:
        optimizer = keras.optimizers.SGD(0.01)
        model.compile(optimizer, ASoftmaxLoss(4, step=optimizer), metrics=["accuracy"])
        model.fit(images, labels, batch_size=8, verbose=0, callbacks=list(callbacks))

    with pytest.warns(UserWarning, match=r"begins anew, .* names 100 % of the first images"):
        fit_anew(AngularLogs())
    said: list[str] = []
    fit_anew(TrainingDoctor(say=said.append))
    assert any("begins anew" in text for text in said)
    model.fit(images, labels, batch_size=8, verbose=0, callbacks=[AngularLogs()])  # goes on


def test_a_classifier_that_is_loaded_without_its_optimizer_says_what_restarts(tmp_path):
    model = FaceClassifier(keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)]), 4)
    model.compile("sgd", loss=ASoftmaxLoss(4))
    fit(model)
    model.save(tmp_path / "m.keras")
    for loss in (ASoftmaxLoss(4), losses.CosFaceLoss(8.0)):
        loaded = keras.models.load_model(tmp_path / "m.keras", compile=False)
        if loss.needs_step:
            with pytest.warns(UserWarning, match=r"saved after 2 updates.*without compile=False"):
                loaded.compile("sgd", loss=loss)
        else:
            loaded.compile("sgd", loss=loss)
    fit(keras.models.load_model(tmp_path / "m.keras"))  # compiled: nothing restarts
    with pytest.raises(AttributeError, match=r"`gradient` is fixed.*new classifier"):
        model.gradient = "caffe"


def test_a_count_of_epochs_is_no_count_that_stands_still():
    epochs = keras.Variable(0, dtype="int32", trainable=False)
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: epochs.assign_add(1))
    model = network()
    model.compile("sgd", loss=ASoftmaxLoss(4, step=epochs))
    history = fit(model, AngularLogs(), count, epochs=3)
    assert history["lambda"][2] < history["lambda"][0]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (lambda: losses.CosFaceLoss(8.0), "margin", 0.1),
        (lambda: losses.ArcFaceLoss(8.0), "scale", 16.0),
        (lambda: losses.SphereFaceRLoss(), "version", "v0"),
        (lambda: losses.NormFaceLoss(8.0), "label_smoothing", 0.1),
        (lambda: losses.NormFaceLoss(8.0), "reduction", "sum"),
        (lambda: ASoftmaxLoss(4, 5.0), "margin", 2),
        (lambda: ASoftmaxLoss(4, 5.0), "annealing", 1.0),
        (lambda: ASoftmaxLoss(4, 5.0), "step", 7),
    ],
)
def test_an_argument_is_fixed_once_the_loss_was_used(make, name, value):
    wanted = make()
    setattr(wanted, name, value)  # before
    model = network()
    model.compile("sgd", loss=make())
    setattr(model.loss, name, value)
    expected = np.sum(wanted(Y, model(X)))
    assert model.evaluate(X, Y, verbose=0, batch_size=16) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(AttributeError, match=rf"`{name}` is fixed .*(compile|bind_step)"):
        setattr(model.loss, name, value)
    duplicate = copy.copy(model.loss)
    setattr(duplicate, name, value)
    inputs, theirs = keras.Input((8,)), make()
    ours = FaceClassifier(keras.Model(inputs, keras.layers.Dense(6)(inputs)), 4)
    ours.compile("sgd", loss=theirs)
    with pytest.raises(AttributeError, match=f"`{name}` is fixed"):
        setattr(theirs, name, value)  # the model has a copy
    ours.evaluate(X, Y, verbose=0)
    with pytest.raises(AttributeError, match=f"`{name}` is fixed"):
        setattr(ours.loss, name, value)


def test_the_curve_of_lambda_is_fixed():
    annealing = LambdaAnnealing(minimum=2.0)
    with pytest.raises(AttributeError, match=r"fixed.*LambdaAnnealing\(minimum=...\)"):
        annealing.minimum = 1.0
    assert annealing.minimum == 2.0


@pytest.mark.parametrize("activation", [None, "softmax", "relu"])
def test_the_output_of_a_dense_layer_is_refused(activation):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(4, activation)(inputs))
    outputs = model(X)
    with pytest.raises(ValueError, match=r"needs the output of .*AngularDense"):
        losses.CosFaceLoss()(Y, outputs)
    model.compile("sgd", loss=losses.CosFaceLoss())
    with pytest.raises(tf.errors.InvalidArgumentError, match="AngularDense"):
        model.fit(X, Y % 3, verbose=0)
    compiled = tf.function(losses.CosFaceLoss(), jit_compile=True)
    assert np.isnan(compiled(tf.constant(Y % 3), outputs))
