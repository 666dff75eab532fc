"""gradient="caffe": the released layer's backward, against a transcription in NumPy."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense, released_gradient
from tf_sphereface.optimizers import SphereFaceSGD

MARGINS = (2, 3, 4)


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 5)) * rng.uniform(0.5, 8, (12, 1))
    w = rng.normal(size=(5, 6))
    return (
        x.astype("float32"),
        (w / np.linalg.norm(w, axis=0)).astype("float32"),
        rng.integers(0, 6, 12),
    )


def loss_and_gradients(x, w, labels, margin, lambda_, loss=None):
    loss = loss or losses.ASoftmaxLoss(margin, lambda_)
    x, w = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        value = loss(labels, released_gradient.angular_outputs(x, w, labels, margin, lambda_))
    return value, tape.gradient(value, [x, w])


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("lambda_", [0.0, 5.0, 1000.0])
def test_equals_the_transcription(margin, lambda_, reference):
    x, w, labels = example()
    value, (to_x, to_w) = loss_and_gradients(x, w, labels, margin, lambda_)
    logits, expected_x, expected_w = reference.caffe_backward(x, w, labels, margin, lambda_)
    total = np.log(np.exp(logits - logits.max()).sum(axis=1)) + logits.max()
    assert float(value) == pytest.approx((total - logits[np.arange(12), labels]).mean(), rel=1e-5)
    np.testing.assert_allclose(to_x, expected_x, atol=2e-6)  # float32 against float64
    np.testing.assert_allclose(to_w, expected_w, atol=2e-6)


@pytest.mark.parametrize("margin", MARGINS)
def test_the_direction_is_the_true_derivative_scaled_to_its_coefficients(margin, reference):
    x, w, _ = example(1)
    x, centre = x.astype(float), w[:, 0].astype(float)
    centre /= np.linalg.norm(centre)
    norm = np.linalg.norm(x, axis=1)
    along_w, along_x = released_gradient.margin_direction(x @ centre / norm, norm, margin)
    found = np.asarray(along_w)[:, None] * centre + np.asarray(along_x)[:, None] * x
    np.testing.assert_allclose(np.square(along_w) + np.square(along_x), 1.0)
    for row, one in zip(x, found, strict=True):
        true = reference.psi_gradient(row, centre, margin)
        cosine = one @ true / np.linalg.norm(one) / np.linalg.norm(true)
        assert cosine == pytest.approx(1.0, abs=1e-12)


def test_the_forward_is_the_heads_own():
    x, w, labels = example()
    head = AngularDense(6)
    head.build((None, 5))
    head.kernel.assign(w * 3.0)
    found = released_gradient.angular_outputs(x, head.kernel, labels, 4, 5.0)
    np.testing.assert_allclose(found, head(x), rtol=1e-6)


def test_weights_of_samples_scale_their_rows():
    x, w, labels = example()
    weights = np.linspace(0.0, 2.0, 12)
    each = [loss_and_gradients(x[i : i + 1], w, labels[i : i + 1], 4, 5.0)[1] for i in range(12)]
    x_, w_ = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x_, w_])
        outputs = released_gradient.angular_outputs(x_, w_, labels, 4, 5.0)
        value = losses.ASoftmaxLoss(4, 5.0)(labels, outputs, weights)
    to_x, to_w = tape.gradient(value, [x_, w_])
    expected = sum(weight / 12 * g[1] for weight, g in zip(weights, each, strict=True))
    np.testing.assert_allclose(to_w, expected, atol=2e-6)
    np.testing.assert_allclose(to_x[3], weights[3] / 12 * each[3][0][0], atol=2e-6)


@pytest.mark.parametrize("margin", MARGINS)
def test_finite_at_the_extremes(margin):
    angles = np.arange(margin + 1) * np.pi / margin
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = np.concatenate([rows * norm for norm in (1e-6, 1.0, 1e6)] + [np.zeros((1, 2))])
    w = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # one centre is 0
    for label in range(3):
        labels = np.full(len(x), label)
        value, gradients = loss_and_gradients(
            x.astype("float32"), w.astype("float32"), labels, margin, 0.0
        )
        assert all(np.isfinite(t).all() for t in (value, *gradients))
        # A sum over x: 1e6 is the length of the longest.
        assert max(float(np.abs(t).max()) for t in gradients) <= 1e7


def data() -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 64)
    images = rng.normal(size=(4, 8))[labels] + 0.3 * rng.normal(size=(64, 8))
    dataset = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    return dataset.batch(16, drop_remainder=True)


def classifier(jit_compile: bool = False, gradient: str = "caffe", **sgd) -> FaceClassifier:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    backbone = keras.Model(inputs, keras.layers.Dense(6)(hidden))
    model = FaceClassifier(backbone, num_classes=4, gradient=gradient)
    optimizer = SphereFaceSGD(0.1, 0.9, weight_decay=5e-2, **sgd)
    loss = losses.ASoftmaxLoss(margin=4, annealing=2.0)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def lengths(model: FaceClassifier) -> np.ndarray:
    return np.linalg.norm(model.head_layer.kernel.numpy(), axis=0)


def test_fit_with_and_without_xla_keeps_the_centres_on_the_sphere(tmp_path: Path):
    results = []
    for jit_compile in (False, True):
        model = classifier(jit_compile)
        np.testing.assert_allclose(lengths(model), 1.0, rtol=1e-6)
        history = model.fit(data(), epochs=4, verbose=0, shuffle=False).history
        assert history["loss"][-1] < history["loss"][0]
        assert history["accuracy"][-1] > 0.5
        np.testing.assert_allclose(lengths(model), 1.0, rtol=1e-6)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)  # XLA's sums have another order
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.gradient == "caffe"
    model.fit(data(), verbose=0, shuffle=False)
    loaded.fit(data(), verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_step_is_the_released_layers(reference):
    """The head after one update: centres minus rate times gradient and decay, then unit length."""
    model = classifier()
    x, labels = next(iter(data()))
    before = model.head_layer.kernel.numpy()
    embedding = model.predict(x, verbose=0)
    _, _, to_w = reference.caffe_backward(embedding, before, labels.numpy(), 4, 2.0)
    model.train_on_batch(x, labels)
    moved = before - 0.1 * (to_w + 5e-2 * before)
    expected = moved / np.linalg.norm(moved, axis=0)
    np.testing.assert_allclose(model.head_layer.kernel.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_mirrored_strategy_equals_one_device(jit_compile, two_replicas):
    single = classifier()
    with two_replicas.scope():
        mirrored = classifier(jit_compile)
    mirrored.set_weights(single.get_weights())
    for model in (single, mirrored):
        model.fit(data(), epochs=2, verbose=0, shuffle=False)
        np.testing.assert_allclose(lengths(model), 1.0, rtol=1e-6)
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)  # float32 sums
    for replica in range(2):
        copy = two_replicas.experimental_local_results(mirrored.head_layer.kernel.value)[replica]
        np.testing.assert_array_equal(copy, mirrored.head_layer.kernel.numpy())


def test_mixed_float16_with_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    model = classifier()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    history = model.fit(data(), epochs=4, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_allclose(lengths(model), 1.0, rtol=1e-6)


def test_gradient_accumulation_keeps_the_centres_on_the_sphere():
    model = classifier(gradient_accumulation_steps=2)
    history = model.fit(data(), epochs=4, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_allclose(lengths(model), 1.0, rtol=1e-6)


def test_exact_is_the_default_and_different():
    exact, released = classifier(gradient="exact"), classifier()
    released.set_weights(exact.get_weights())
    for model in (exact, released):
        model.fit(data(), verbose=0, shuffle=False)
    assert not np.allclose(exact.get_weights()[0], released.get_weights()[0], atol=1e-4)


@pytest.mark.parametrize(
    ("head", "gradient", "loss", "message"),
    [
        ("angular", "torch", None, r"`gradient` must be one of.*Received: gradient='torch'"),
        ("softmax", "caffe", None, 'needs head="angular"'),
        ("sphereface2", "caffe", None, 'needs head="angular"'),
        ("angular", "caffe", losses.CosFaceLoss(), "needs ASoftmaxLoss with margin 2, 3 or 4"),
        ("angular", "caffe", losses.ASoftmaxLoss(1), "plain inner product with unit centres"),
    ],
)
def test_what_it_cannot_be_used_with(head, gradient, loss, message):
    inputs = keras.Input((8,))
    backbone = keras.Model(inputs, keras.layers.Dense(6)(inputs))
    with pytest.raises(ValueError, match=message):
        FaceClassifier(backbone, 4, head=head, gradient=gradient).compile("sgd", loss=loss)
