"""A margin that grows over the first training steps."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense

BATCH, STEPS, CLASSES = 8, 4, 5
SHARES = (1 / 3, 2 / 3, 1.0, 1.0)


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(4).normal(size=(BATCH * STEPS, 6)).astype("float32")
    return x, np.arange(BATCH * STEPS) % CLASSES


def network(kind: str, loss, rate: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    base = keras.Model(inputs, keras.layers.Dense(4, use_bias=False)(inputs))
    if kind == "stock":
        model = keras.Model(base.input, AngularDense(CLASSES)(base.output))
    else:
        model = FaceClassifier(base, CLASSES, sample_rate=1 - 1e-9 if kind == "sampled" else 1)
    model.compile(keras.optimizers.SGD(rate), loss=loss, jit_compile="xla" in kind)
    return model


class BatchLosses(keras.callbacks.Callback):
    """The mean loss after each batch."""

    def on_train_begin(self, logs=None):
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(logs["loss"])


@pytest.mark.parametrize(  # every pair of loss, compiler and number of replicas
    ("loss", "kind"),
    [
        (losses.CosFaceLoss, "stock"),
        (losses.CosFaceLoss, "sampled"),
        (losses.CosFaceLoss, "xla"),
        (losses.CosFaceLoss, "mirrored"),
        (losses.ArcFaceLoss, "classifier"),
        (losses.ArcFaceLoss, "mirrored xla"),
    ],
)
def test_a_step_has_its_share_of_the_margin(kind, loss, two_replicas):
    make = functools.partial(loss, 8.0, 0.4)
    strategy = two_replicas if "mirrored" in kind else tf.distribute.get_strategy()
    with strategy.scope():
        model = network(kind, make(margin_warm_up=3))
    x, labels = data()
    seen = BatchLosses()
    model.fit(x, labels, BATCH, shuffle=False, verbose=0, callbacks=[seen])
    plain = network("stock", make())
    head = getattr(model, "head_layer", None) or model.layers[-1]
    plain.layers[1].set_weights([model.weights[0].numpy()])
    plain.layers[-1].kernel.assign(keras.ops.convert_to_numpy(head.kernel))
    found = np.diff(np.arange(1, 5) * seen.means, prepend=0.0)
    whole, outputs = make(), plain(x).numpy()
    expected = []
    for step, share in enumerate(SHARES):
        part = slice(step * BATCH, (step + 1) * BATCH)
        expected.append(float(loss(8.0, 0.4 * share)(labels[part], outputs[part])))
    np.testing.assert_allclose(found, expected, rtol=2e-5)  # float32
    value = model.evaluate(x, labels, BATCH, verbose=0)  # does not move it
    assert value == pytest.approx(float(whole(labels, outputs)), rel=1e-5)


def test_it_goes_on_where_a_model_was_saved(tmp_path):
    model = network("classifier", losses.CosFaceLoss(8.0, margin_warm_up=8), rate=0.05)
    model.fit(*data(), BATCH, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one in (model, loaded):
        one.fit(*data(), BATCH, shuffle=False, verbose=0)
        assert float(one.head_layer.loss_state.numbers["margin_steps"].numpy()) == 8
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_outside_a_model_the_margin_is_whole_and_it_is_said():
    outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    loss = losses.ArcFaceLoss(3.0, margin_warm_up=100)
    assert float(loss([0], outputs)) == float(losses.ArcFaceLoss(3.0)([0], outputs))
    assert loss.describe().endswith("scale 3, grown over 100 steps")
    with pytest.raises(ValueError, match="`margin_warm_up`"):
        losses.CosFaceLoss(margin_warm_up=-1)
