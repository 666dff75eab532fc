"""The moving average of a network's weights: what it is, and that training does not see it."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.training.stopping import StopAfter
from tests.training.test_resumable import RECIPE, rows, source
from tf_sphereface import training
from tf_sphereface.training.weight_average import WeightAverage, network_weights

pytestmark = pytest.mark.usefixtures("small_backbone")

AVERAGED = dataclasses.replace(
    RECIPE.with_optimizer("muon"),
    schedule="cosine",
    warm_up=0.7,
    loss="arcface",
    margin_warm_up=1.5,
    ema=0.9,
    augment="quality",
)


def classifier(policy="float32", **options) -> sf.FaceClassifier:
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dense(4)]
    backbone = keras.Sequential([keras.Input((8,)), *layers])
    model = sf.FaceClassifier(backbone, 12, **options)
    model.compile(keras.optimizers.SGD(0.05), sf.losses.CosFaceLoss(8.0))
    return model


def batches() -> tf.data.Dataset:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 8)).astype("float32"), np.arange(48) % 12
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(12)


class Weights(keras.callbacks.Callback):
    """Keep the network's weights after each update."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[int, list[np.ndarray]] = {}

    def on_train_batch_end(self, batch, logs=None):
        # in float16 the first ones overflow
        update = int(tf.convert_to_tensor(self.model.optimizer.iterations))
        self.history.setdefault(
            update, [v.numpy().astype("float64") for v in network_weights(self.model)]
        )


@pytest.mark.parametrize("kind", ["plain", "frozen", "sampled", "xla", "mirrored", "mixed_float16"])
def test_it_is_the_average_and_training_is_what_it_is_without(kind, two_replicas):
    strategy = tf.distribute.get_strategy()
    if kind == "mirrored":
        strategy = two_replicas

    def train(*callbacks):
        with strategy.scope():
            options = {"sample_rate": 0.99} if kind == "sampled" else {}
            model = classifier(kind if kind.startswith("mixed") else "float32", **options)
            if kind == "frozen":
                model.backbone.layers[0].trainable = False
            loss, jit = sf.losses.CosFaceLoss(8.0), kind == "xla"
            model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=jit)
        made = [callback(model) for callback in callbacks]
        model.fit(batches(), epochs=2, callbacks=made, verbose=0, shuffle=False)
        return model, made

    plain, _ = train()
    first = [v.numpy() for v in network_weights(classifier())]
    model, (average, seen) = train(lambda m: WeightAverage(m, 0.5), lambda m: Weights())
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    right = [value.astype("float64") for value in first]
    seen.history.pop(0, None)
    for update, weights in seen.history.items():
        momentum = min(0.5, (1 + update) / (10 + update))
        right = [momentum * a + (1 - momentum) * w for a, w in zip(right, weights, strict=True)]
    for found, value in zip(average.arrays(), right, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)  # float32, 8 updates
    if kind == "frozen":
        np.testing.assert_array_equal(average.arrays()[0], first[0])


def test_an_update_that_overflowed_does_not_count():
    keras.config.set_dtype_policy("mixed_float16")
    model = classifier("mixed_float16")
    average = WeightAverage(model, 0.5)
    before = average.arrays()
    x = np.full((12, 8), 1e30, "float32")  # infinite in float16
    model.fit(x, np.arange(12), batch_size=12, callbacks=[average], verbose=0)
    assert int(model.optimizer.iterations) == 0
    trained = [i for i, v in enumerate(network_weights(model)) if v.trainable]
    for place in trained:
        np.testing.assert_array_equal(average.arrays()[place], before[place])


def test_values_of_another_network_are_refused():
    with pytest.raises(ValueError, match="averages of the network's 8"):
        WeightAverage(classifier(), 0.5, [np.zeros(3)])
    with pytest.raises(ValueError, match="`momentum`"):
        WeightAverage(classifier(), 1.0)


def test_a_run_with_averages_resumes_to_the_bit_and_trains_as_one_without(tmp_path):
    faces = source()
    whole = training.run(AVERAGED, faces, tmp_path / "whole")
    broken = tmp_path / "broken"
    for steps in (2, 3):  # inside the first epoch, and inside the second
        with pytest.raises(InterruptedError):
            training.run(
                AVERAGED,
                faces,
                broken,
                resume=broken.exists(),
                checkpoint_every=1,
                callbacks=[StopAfter(steps)],
            )
    resumed = training.run(AVERAGED, faces, broken, resume=True)
    plain = training.run(dataclasses.replace(AVERAGED, ema=0.0), faces, tmp_path / "plain")
    for averaged in (True, False):
        networks = [run.network(averaged=averaged).get_weights() for run in (whole, resumed)]
        for a, b in zip(*networks, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    raw, averages = (whole.network(averaged=flag).get_weights() for flag in (False, True))
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(raw, averages, strict=True))
    assert rows(tmp_path / "whole") == rows(broken) == rows(tmp_path / "plain")
