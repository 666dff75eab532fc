"""Path (a): our layer and our loss in a stock keras.Model, under plain compile and fit."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import losses
from tf_sphereface.callbacks import AngularLogs
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss


def data(seed: int = 0) -> tf.data.Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 64)
    images = rng.normal(size=(4, 8))[labels] + 0.3 * rng.normal(size=(64, 8))
    return tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(16)


def stock_model(jit_compile: bool = False, **optimizer: object) -> keras.Model:
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    outputs = AngularDense(4)(keras.layers.Dense(6)(hidden))
    model = keras.Model(inputs, outputs)
    sgd = keras.optimizers.SGD(0.1, momentum=0.9, **optimizer)
    loss = ASoftmaxLoss(margin=4, step=sgd)
    model.compile(sgd, loss=loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def fit(model: keras.Model, epochs: int = 2, **kwargs: object) -> dict[str, list[float]]:
    kwargs.setdefault("callbacks", [AngularLogs()])
    return model.fit(data(), epochs=epochs, verbose=0, shuffle=False, **kwargs).history


@pytest.mark.parametrize(
    ("jit_compile", "policy"),
    [(False, "float32"), (True, "mixed_float16"), (False, "mixed_bfloat16")],
)
def test_fit_evaluate_predict_save_and_load(policy, jit_compile, tmp_path: Path):
    keras.config.set_dtype_policy(policy)
    model = stock_model(jit_compile)
    history = fit(model, epochs=4, validation_data=data())
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.5  # chance is 0.25
    # Four updates an epoch; validation moves nothing; the value is the one the last update used.
    expected = [1000 / (1 + 0.12 * update) for update in (4, 8, 12, 16)]
    np.testing.assert_allclose(history["lambda"], expected, rtol=1e-6)
    assert all(1.0 < m < 1.01 for m in history["effective_margin"])
    assert "val_lambda" not in history
    before = model.evaluate(data(), verbose=0)
    predictions = model.predict(data(), verbose=0)
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="held at update 16"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.evaluate(data(), verbose=0), before, rtol=1e-6)
    np.testing.assert_allclose(loaded.predict(data(), verbose=0), predictions, rtol=1e-6)


def test_training_goes_on_exactly_after_bind_step(tmp_path: Path):
    model = stock_model()
    fit(model, epochs=1)
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="bind_step"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    losses.bind_step(loaded)
    expected, found = fit(model, epochs=2), fit(loaded, epochs=2)
    assert found["lambda"] == expected["lambda"]
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # the momentum came back too


def test_clone_model_has_the_same_output():
    model = stock_model()
    with pytest.warns(UserWarning, match="bind_step"):  # Keras compiles the clone as well
        clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = np.ones((3, 8), "float32")
    np.testing.assert_array_equal(clone.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_accumulation_moves_lambda_once_an_update(jit_compile):
    model = stock_model(jit_compile, gradient_accumulation_steps=2)
    history = fit(model, epochs=2)
    # Eight batches are four updates; the last batch of each epoch completes the 2nd and the 4th.
    np.testing.assert_allclose(history["lambda"], [1000 / 1.24, 1000 / 1.48], rtol=1e-6)


def test_lambda_in_the_loss_itself_moves_under_gradient_accumulation():
    """Not only in the logs: with a frozen lambda the second loss would be the first one's."""
    model = stock_model(gradient_accumulation_steps=2)
    model.optimizer.learning_rate = 0.0
    model.loss.annealing = 0.0
    frozen = fit(model, epochs=1, callbacks=[])["loss"][0]
    moving = stock_model(gradient_accumulation_steps=2)
    moving.set_weights(model.get_weights())
    moving.optimizer.learning_rate = 0.0
    first, later = fit(moving, epochs=12)["loss"][::11]
    assert first < later < frozen  # lambda falls, so the loss of the same weights rises


def test_batch_logs_carry_the_lambda_of_that_batch():
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs["lambda"], logs["effective_margin"]))

    model = stock_model()
    fit(model, epochs=1, callbacks=[AngularLogs(), Spy()])
    np.testing.assert_allclose([s[0] for s in seen], [1000 / (1 + 0.12 * i) for i in (1, 2, 3, 4)])
    assert seen[0][1] < seen[-1][1]


def test_several_steps_an_execution_log_the_last_update():
    model = stock_model()
    model.compile(model.optimizer, loss=model.loss, steps_per_execution=2)
    assert fit(model, epochs=1)["lambda"][0] == pytest.approx(1000 / 1.48)


def test_angular_logs_wants_a_scheduled_loss():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, AngularDense(4)(inputs))
    model.compile("sgd", loss=ASoftmaxLoss(annealing=5.0))
    with pytest.raises(ValueError, match="AngularLogs needs a loss"):
        fit(model)


def test_xla_under_a_strategy_points_to_face_classifier(two_replicas):
    with two_replicas.scope():
        model = stock_model(jit_compile=True)
    with pytest.raises(
        ValueError, match=r"jit_compile=True under MirroredStrategy.*FaceClassifier"
    ):
        fit(model, callbacks=[])


def test_mirrored_strategy_without_xla_equals_one_device(two_replicas):
    single = stock_model()
    with two_replicas.scope():
        mirrored = stock_model()
    mirrored.set_weights(single.get_weights())
    expected, found = fit(single), fit(mirrored)
    np.testing.assert_allclose(found["lambda"], expected["lambda"])
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)  # float32 sums
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
