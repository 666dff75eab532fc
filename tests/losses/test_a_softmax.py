from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import losses
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss
from tf_sphereface.losses.cross_entropy import target_cross_entropy
from tf_sphereface.schedules import LambdaAnnealing


def example(seed: int = 0, scale: float = 4.0) -> tuple[np.ndarray, AngularDense, np.ndarray]:
    rng = np.random.default_rng(seed)
    layer = AngularDense(6)
    layer.build((None, 5))
    embeddings = (rng.normal(size=(9, 5)) * scale).astype("float32")
    return embeddings, layer, rng.integers(0, 6, 9)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
@pytest.mark.parametrize("lambda_", [0.0, 1.0, 5.0, 1000.0])
def test_equals_the_oracle(margin, lambda_, reference):
    embeddings, layer, labels = example()
    found = losses.a_softmax(labels, layer(embeddings), margin, lambda_)
    expected = reference.a_softmax(embeddings, layer.kernel.numpy(), labels, margin, lambda_)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)  # float32 against float64


def test_margin_1_is_plain_softmax_on_the_cosine_logits():
    embeddings, layer, labels = example()
    outputs = layer(embeddings)
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(stock(labels, outputs[:, :-1]))
    assert float(ASoftmaxLoss(margin=1)(labels, outputs)) == pytest.approx(expected, rel=1e-6)


def test_an_endless_lambda_is_margin_1():
    embeddings, layer, labels = example()
    outputs = layer(embeddings)
    plain = float(ASoftmaxLoss(margin=1)(labels, outputs))
    assert float(ASoftmaxLoss(annealing=float("inf"))(labels, outputs)) == pytest.approx(plain)


def test_the_loss_rises_with_the_margin():
    embeddings, layer, labels = example()
    outputs = layer(embeddings)
    values = [float(ASoftmaxLoss(m, annealing=0.0)(labels, outputs)) for m in (1, 2, 3, 4)]
    assert values == sorted(values)
    assert len(set(values)) == 4


def test_gradient_where_the_target_dominates():
    """The target's probability is 1 - 6e-14: a softmax minus one-hot would give exactly 0."""
    logits = tf.Variable([[30.0, 0.0, -1.0]])
    target = tf.Variable([30.0])
    with tf.GradientTape() as tape:
        loss = target_cross_entropy(logits, np.array([0]), target)
    by_target, by_logits = tape.gradient(loss, [target, logits])
    others = np.exp(0.0) + np.exp(-1.0)
    expected = others / (np.exp(30.0) + others)
    assert float(loss[0]) == pytest.approx(expected, rel=1e-5)
    assert float(by_target[0]) == pytest.approx(-expected, rel=1e-5)
    assert float(by_logits[0, 0]) == 0.0
    assert float(by_logits[0, 1]) == pytest.approx(np.exp(-30.0), rel=1e-5)


def test_huge_logits_and_a_single_class_are_finite():
    logits = tf.constant([[1e6, -1e6, 0.0]])
    np.testing.assert_allclose(target_cross_entropy(logits, [1], [-1e6]), [2e6])
    single = tf.Variable([[3.0]])
    with tf.GradientTape() as tape:
        loss = target_cross_entropy(single, [0], single[:, 0])
    assert float(loss[0]) == 0.0
    assert np.isfinite(tape.gradient(loss, single).numpy()).all()


@pytest.mark.parametrize("label", [-1, 6, 100])
def test_a_label_out_of_range_is_an_error_eager_and_in_a_graph_and_nan_in_xla(label):
    embeddings, layer, labels = example()
    labels = labels.copy()
    labels[3] = label
    outputs = layer(embeddings)
    loss = ASoftmaxLoss(annealing=5.0)
    with pytest.raises(ValueError, match=r"\[0, 6\).*Received: \[" + str(label)):
        loss(labels, outputs)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 6\)"):
        tf.function(loss)(labels, outputs)
    assert np.isnan(tf.function(loss, jit_compile=True)(tf.constant(labels), outputs))


def test_one_hot_labels_are_refused_everywhere():
    embeddings, layer, labels = example()
    one_hot, outputs = np.eye(6)[labels], layer(embeddings)
    for call in (ASoftmaxLoss(annealing=5.0), tf.function(ASoftmaxLoss(annealing=5.0))):
        with pytest.raises(ValueError, match="not one-hot"):
            call(one_hot, outputs)


def test_column_labels_and_sample_weights():
    embeddings, layer, labels = example()
    outputs, loss = layer(embeddings), ASoftmaxLoss(annealing=5.0)
    assert float(loss(labels[:, None], outputs)) == pytest.approx(float(loss(labels, outputs)))
    each = losses.a_softmax(labels, outputs, 4, 5.0).numpy()
    weights = np.arange(9.0)
    assert float(loss(labels, outputs, weights)) == pytest.approx((each * weights).sum() / 9)


def test_lambda_follows_the_optimizer_from_the_first_value():
    optimizer = keras.optimizers.SGD(0.1)
    loss = ASoftmaxLoss(step=optimizer)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    assert float(loss.current_lambda()) == pytest.approx(892.857, rel=1e-6)
    for _ in range(3):
        optimizer.apply([tf.constant(0.0)], [variable])
    assert float(loss.current_lambda()) == pytest.approx(1000 / 1.48, rel=1e-6)


def test_lambda_counts_updates_and_not_micro_steps():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    loss = ASoftmaxLoss(step=optimizer)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    seen = []
    for _ in range(5):
        seen.append(round(float(loss.current_lambda()), 3))
        optimizer.apply([tf.constant(0.0)], [variable])
    assert seen == [892.857, 892.857, 806.452, 806.452, 735.294]


def test_an_overflowed_step_does_not_count():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    loss = ASoftmaxLoss(step=optimizer)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant(np.inf, tf.float32)], [variable])
    assert float(loss.current_lambda()) == pytest.approx(892.857, rel=1e-6)
    optimizer.apply([tf.constant(1.0)], [variable])
    assert float(loss.current_lambda()) == pytest.approx(806.452, rel=1e-6)


@pytest.mark.parametrize("kind", ["keras variable", "tf variable", "int", "callable"])
def test_other_sources_of_the_step(kind):
    step = {
        "keras variable": keras.Variable(1657, dtype="int64", trainable=False),
        "tf variable": tf.Variable(1657),
        "int": 1657,
        "callable": lambda: 1657,
    }[kind]
    found = float(ASoftmaxLoss(step=step).current_lambda())
    assert found == pytest.approx(5.0010002, rel=1e-6)


def test_a_plain_tensor_as_step_is_refused():
    """`optimizer.iterations` is one under gradient accumulation: lambda froze at 892."""
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    for step in (optimizer.iterations, tf.constant(3), np.array(3)):
        with pytest.raises(TypeError, match=r"plain tensor.*step=optimizer"):
            ASoftmaxLoss(step=step)


@pytest.mark.parametrize("step", ["7", 2.5, True, [1]])
def test_another_step_is_refused(step):
    with pytest.raises(TypeError, match=r"must be an optimizer.*Received"):
        ASoftmaxLoss(step=step)


def test_no_step_raises_and_says_so():
    embeddings, layer, labels = example()
    with pytest.raises(ValueError, match=r"step=optimizer.*bind_step"):
        ASoftmaxLoss(margin=4)(labels, layer(embeddings))


def test_the_config_holds_the_step_as_an_int_and_loading_warns():
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([keras.Variable(1.0)])
    optimizer.iterations.assign(41)
    loss = ASoftmaxLoss(3, LambdaAnnealing(minimum=2.0), step=optimizer, reduction="sum", name="x")
    config = keras.saving.serialize_keras_object(loss)
    assert config["config"]["step"] == 41
    assert type(config["config"]["step"]) is int
    with pytest.warns(UserWarning, match=r"held at update 41.*bind_step\(model\)"):
        loaded = keras.saving.deserialize_keras_object(config)
    assert (loaded.margin, loaded.step, loaded.reduction, loaded.name) == (3, 41, "sum", "x")
    assert loaded.annealing == loss.annealing
    assert loaded.current_lambda() == pytest.approx(float(loss.current_lambda()), rel=1e-6)


def test_a_copy_keeps_the_live_step():
    optimizer = keras.optimizers.SGD(0.1)
    loss = copy.copy(ASoftmaxLoss(step=optimizer))
    optimizer.iterations.assign(41)
    assert loss.get_config()["step"] == 41


@pytest.mark.parametrize("annealing", [-1.0, "paper", True])
def test_another_annealing_is_refused(annealing):
    with pytest.raises(ValueError, match=r"`annealing`.*Received"):
        ASoftmaxLoss(annealing=annealing)


def test_bind_step_wants_a_compiled_model_with_such_a_loss():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="compiled"):
        losses.bind_step(model)
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="no loss with a `step`"):
        losses.bind_step(model)
