"""Subclasses of FaceClassifier, and other ways by which scripts of Keras go."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, callbacks, layers, losses, schedules

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.arange(32) % 3


def backbone() -> keras.Model:
    image = keras.Input((8,))
    return keras.Model(image, keras.layers.Dense(4)(image))


class OwnStep(FaceClassifier):
    """The training step of Keras' guides."""

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            embedding = self(x, training=True)
            loss = self.compute_loss(x, y, embedding, sample_weight)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return self.compute_metrics(x, y, embedding, sample_weight)


def trained(kind: type[FaceClassifier], loss, **options) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    model = kind(backbone(), 3, **options)
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.ArcFaceLoss(margin_warm_up=6), {}),
        (losses.AdaFaceLoss(), {}),
        (losses.CosFaceLoss(), {"conflict_cosine": 0.1}),
        (losses.ASoftmaxLoss(), {"gradient": "caffe"}),
    ],
)
def test_a_step_of_ones_own_trains_as_the_built_in_one(loss, options):
    found, expected = trained(OwnStep, loss, **options), trained(FaceClassifier, loss, **options)
    for own, built_in in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, built_in, rtol=1e-5, atol=1e-6)  # order of float32 sums


def test_a_step_of_ones_own_has_no_sample():
    with pytest.raises(ValueError, match="sample_rate=1"):
        trained(OwnStep, losses.CosFaceLoss(), sample_rate=0.5)


def test_a_step_of_ones_own_logs_lambda():
    model = OwnStep(backbone(), 3)
    model.compile("sgd", losses.ASoftmaxLoss())
    logs = callbacks.AngularLogs()
    history = model.fit(X, Y, batch_size=8, verbose=0, callbacks=[logs]).history
    assert history["lambda"][0] == pytest.approx(1000 / (1 + 0.12 * 4))


def test_what_a_step_would_not_call_is_refused():
    class OwnLoss(FaceClassifier):
        def compute_loss(self, *arguments, **options):
            return super().compute_loss(*arguments, **options) + 1.0

    class Both(OwnStep, OwnLoss):
        test_step = keras.Model.test_step

    with pytest.raises(ValueError, match=r"OwnLoss\.compute_loss would not be called"):
        OwnLoss(backbone(), 3).compile("sgd")
    Both(backbone(), 3).compile("sgd")


def test_each_of_two_heads_has_its_lambda_in_the_logs():
    network = backbone()
    heads = {name: layers.AngularDense(3, name=name)(network.output) for name in "ab"}
    model, optimizer = keras.Model(network.input, heads), keras.optimizers.SGD(0.01)
    short = schedules.LambdaAnnealing.for_steps(7)
    loss = {
        "a": losses.ASoftmaxLoss(4, step=optimizer),
        "b": losses.ASoftmaxLoss(2, short, step=optimizer),
    }
    model.compile(optimizer, loss=loss)
    logs = callbacks.AngularLogs()
    labels = {"a": Y, "b": Y}
    history = model.fit(X, labels, batch_size=8, verbose=0, callbacks=[logs]).history
    assert history["lambda_a"][0] == pytest.approx(1000 / (1 + 0.12 * 4))
    assert history["lambda_b"][0] == pytest.approx(float(short(4)))
    assert "lambda" not in history


def test_classes_of_metrics_and_losses():
    """Keras makes an object of a class."""
    metric = keras.metrics.SparseCategoricalAccuracy
    network = backbone()
    stock = keras.Model(network.input, layers.AngularDense(3)(network.output))
    stock.compile("sgd", losses.CosFaceLoss(), metrics=[metric])
    assert "sparse_categorical_accuracy" in stock.fit(X, Y, verbose=0).history
    stock.compile("sgd", losses.CosFaceLoss)
    with pytest.raises(ValueError, match=r"not with its class: loss=CosFaceLoss\(\)"):
        stock.fit(X, Y, verbose=0)
    model = FaceClassifier(backbone(), 3)
    model.compile("sgd", losses.CosFaceLoss, metrics=[metric])
    assert "sparse_categorical_accuracy" in model.fit(X, Y, verbose=0).history
    with pytest.raises(ValueError, match="in no list"):
        model.compile("sgd", [losses.CosFaceLoss()])
    with pytest.raises(ValueError, match="ClassMetric"):
        model.compile("sgd", losses.CosFaceLoss(), metrics=[keras.metrics.CategoricalAccuracy])


def test_a_margin_that_has_grown_is_told_where_the_optimizer_is_new(tmp_path, caplog):
    model = FaceClassifier(backbone(), 3)
    model.compile("sgd", losses.ArcFaceLoss(margin_warm_up=5))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tf_sphereface"):
        keras.models.load_model(tmp_path / "m.keras")
        model.compile(model.optimizer, losses.ArcFaceLoss(margin_warm_up=5))
        assert not [r for r in caplog.records if r.name == "tf_sphereface"]
        model.compile("sgd", losses.ArcFaceLoss(margin_warm_up=20))
    assert "goes on at step 8 of the 20" in caplog.text


def test_weights_of_a_loaded_model_are_in_the_order_of_a_new_one(tmp_path):
    model = FaceClassifier(backbone(), 3)
    model.compile("sgd", losses.AdaFaceLoss())
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    other = FaceClassifier(backbone(), 3)
    other.compile("sgd", losses.AdaFaceLoss())
    other.set_weights(keras.models.load_model(tmp_path / "m.keras", compile=False).get_weights())
    assert other.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


def test_texts_as_labels():
    dataset = tf.data.Dataset.from_tensors((X, np.array(list("abc"))[Y]))
    model = FaceClassifier(backbone(), 3)
    model.compile("sgd", losses.CosFaceLoss())
    with pytest.raises(ValueError, match="these are texts"):
        model.fit(dataset, verbose=0)


def test_one_batch_under_a_strategy(two_replicas):
    """Keras gives each replica all of it."""
    weights = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = FaceClassifier(backbone(), 3)
            model.compile(keras.optimizers.SGD(0.01), losses.CosFaceLoss())
        model.train_on_batch(X[:8], Y[:8])
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


def test_deterministic_operations(monkeypatch):
    """TensorFlow then tells no time."""
    from tf_sphereface.classifier import batch_arrival

    monkeypatch.setattr(batch_arrival, "is_deterministic", lambda: True)
    monkeypatch.setattr(tf, "timestamp", pytest.fail)
    model = FaceClassifier(backbone(), 3)
    model.compile("sgd", losses.CosFaceLoss())
    model.fit(X, Y, verbose=0)
    assert model.batch_arrival.seconds == 0
