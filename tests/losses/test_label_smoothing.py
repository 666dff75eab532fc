"""Smoothed labels and weighted classes: naive sums over all classes, and repeated examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import head_output

CLASSES, BIAS = 5, 0.75
Make = Callable[[float], losses.MarginLoss]
MAKE: dict[str, Make] = {
    "a_softmax": lambda e: losses.ASoftmaxLoss(3, annealing=2.0, label_smoothing=e),
    "normface": lambda e: losses.NormFaceLoss(12.0, label_smoothing=e),
    "cosface": lambda e: losses.CosFaceLoss(12.0, 0.3, label_smoothing=e),
    "arcface": lambda e: losses.ArcFaceLoss(12.0, 0.4, label_smoothing=e),
    "v0": lambda e: losses.SphereFaceRLoss("v0", 1.7, 12.0, detach=False, label_smoothing=e),
    "v1": lambda e: losses.SphereFaceRLoss("v1", 1.7, 12.0, detach=False, label_smoothing=e),
    "v2": lambda e: losses.SphereFaceRLoss("v2", 1.7, 12.0, detach=False, label_smoothing=e),
    "adaface": lambda e: losses.AdaFaceLoss(12.0, 0.3, label_smoothing=e),
    "magface": lambda e: losses.MagFaceLoss(
        12.0, lower_norm=1, upper_norm=5, regularizer=2, label_smoothing=e
    ),
    "curricularface": lambda e: losses.CurricularFaceLoss(12.0, 0.4, label_smoothing=e),
    "sphereface2": lambda e: losses.SphereFace2Loss(detach=False, label_smoothing=e),
}


def naive(reference: Any, name: str, angles: Any, norm: float, label: int, e: float) -> float:
    """Return the loss of one example: a sum over all classes of share times -log probability."""
    shares = np.full(CLASSES, e / CLASSES)
    shares[label] += 1 - e
    loss = MAKE[name](e)
    if name == "sphereface2":
        total = 0.0
        for angle, share in zip(angles, shares, strict=True):
            g = 2 * ((math.cos(angle) + 1) / 2) ** 3 - 1
            yes, no = -40 * (g - 0.4) - BIAS, 40 * (g + 0.4) + BIAS
            total += 0.7 * share * np.logaddexp(0, yes) + 0.3 * (1 - share) * np.logaddexp(0, no)
        return 50 / 40 * total
    z = np.cos(angles / 1.7) if name == "v2" else np.cos(angles)
    own, more = angles[label], 0.0
    if name == "adaface":
        quality = max(-1.0, 0.333 * (norm - 20) / 100.001)
        moved = math.cos(max(own - 0.3 * quality, 1e-3)) - 0.3 * (1 + quality)
    elif name == "magface":
        length = min(max(norm, 1.0), 5.0)
        m, more = 0.45 + 0.35 * (length - 1) / 4, 2 * (length / 25 + 1 / length)
        moved = math.cos(own + m) if own + m < math.pi else math.cos(own) - m * math.sin(m)
    elif name == "curricularface":
        moved = math.cos(own + 0.4) if own + 0.4 < math.pi else math.cos(own) - 0.4 * math.sin(0.4)
        z = np.where(z > moved, z * z, z)
    z[label] = {
        "a_softmax": lambda: (2 * math.cos(own) + reference.psi(own, 3)) / 3,
        "cosface": lambda: math.cos(own) - 0.3,
        "arcface": lambda: math.cos(own + 0.4),
        "v0": lambda: reference.real_psi(own, 1.7),
        "v1": lambda: math.cos(min(1.7 * own, math.pi)),
        "adaface": lambda: moved,
        "magface": lambda: moved,
        "curricularface": lambda: moved,
    }.get(name, lambda: math.cos(own))()
    z *= getattr(loss, "scale", norm)
    return more + float(shares @ (np.log(np.exp(z).sum()) - z))


def table(name: str, angles: np.ndarray, norms: np.ndarray) -> Any:
    bias = tf.constant(BIAS, "float64") if name == "sphereface2" else None
    cosines, lengths = tf.constant(np.cos(angles)), tf.constant(norms[:, None])
    return head_output.join(cosines * lengths, lengths, bias)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("name", list(MAKE))
def test_equals_a_sum_over_all_classes(name, e, reference):
    rng = np.random.default_rng(0)
    angles, norms = rng.uniform(0.1, 2.6, (6, CLASSES)), rng.uniform(0.5, 6.0, 6)
    labels = rng.integers(0, CLASSES, 6)
    expected = [
        naive(reference, name, row, norm, label, e)
        for row, norm, label in zip(angles, norms, labels, strict=True)
    ]
    found = MAKE[name](e).per_example(labels, table(name, angles, norms))
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # arccos and the bias are float32's


@pytest.mark.parametrize("name", list(MAKE))
def test_gradient_equals_finite_differences_and_is_the_same_under_xla(name):
    """By every column that depends on the embedding or a centre, the last one among them."""
    rng = np.random.default_rng(1)
    outputs = table(name, rng.uniform(0.2, 2.6, (4, CLASSES)), rng.uniform(1.0, 3.0, 4))
    labels, loss = np.array([0, 2, 4, 1]), MAKE[name](0.3)

    def gradient(outputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss.per_example(labels, outputs)
        return tape.gradient(value, outputs)

    found = gradient(outputs).numpy()
    # The detached length of SphereFace2 and AdaFace has another gradient on purpose.
    detached = name in ("sphereface2", "adaface")
    columns = [*range(CLASSES), *([] if detached else [outputs.shape[-1] - 1])]
    for column in columns:
        shift = np.eye(outputs.shape[-1])[column] * 1e-6
        up, down = (loss.per_example(labels, outputs + s) for s in (shift, -shift))
        slope = (up - down).numpy() / 2e-6
        np.testing.assert_allclose(found[:, column], slope, rtol=1e-4, atol=1e-4)
    loss.xla = True
    compiled = tf.function(gradient, jit_compile=True)(tf.cast(outputs, "float32"))
    np.testing.assert_allclose(compiled, found, rtol=1e-3, atol=1e-4)  # float32


@pytest.mark.parametrize("name", list(MAKE))
def test_it_is_saved_and_described_and_old_configurations_have_none(name):
    loss = MAKE[name](0.1)
    again = type(loss).from_config(loss.get_config())
    assert again.label_smoothing == 0.1
    assert "label smoothing 0.1" in loss.describe()
    old = {k: v for k, v in loss.get_config().items() if k != "label_smoothing"}
    assert type(loss).from_config(old).label_smoothing == 0.0
    for wrong in (-0.1, 1.0, "0.1", float("nan")):
        with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\)"):
            MAKE[name](wrong)


def classifier(loss: Any, head: str = "angular", **options: Any) -> FaceClassifier:
    keras.utils.set_random_seed(0)
    images = keras.Input((8,))
    network = keras.Model(images, keras.layers.Dense(4)(images))
    model = FaceClassifier(network, 32, head=head, sample_rate=options.pop("sample_rate", 1.0))
    model.compile(keras.optimizers.SGD(0.1), loss=loss, **options)
    return model


def test_the_sampled_head_spreads_it_over_the_sample():
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    labels = np.array([3, 7])
    model = classifier(losses.CosFaceLoss(8.0, 0.2, label_smoothing=0.4), sample_rate=6 / 32)
    head = model.head_layer
    chosen, places = head.choose(tf.constant(labels, "int32"), 0)
    assert head.sample_size == 6
    logits = np.asarray(head(model(x)))[:, np.asarray(chosen)] / np.asarray(head(model(x)))[:, -1:]
    z = 8.0 * -logits.astype("float64")
    z[np.arange(2), np.asarray(places)] -= 8.0 * 0.2
    shares = np.full((2, 6), 0.4 / 6)
    shares[np.arange(2), np.asarray(places)] += 0.6
    expected = (shares * (np.log(np.exp(z).sum(1, keepdims=True)) - z)).sum(1).mean()
    assert model.train_on_batch(x, labels) == pytest.approx(expected, rel=1e-4)


def test_the_released_gradient_knows_smoothed_labels():
    """Far from the target lambda is all: then both gradients are those of the plain softmax."""
    x = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
    weights = []
    for gradient in ("exact", "caffe"):
        keras.utils.set_random_seed(0)
        images = keras.Input((8,))
        network = keras.Model(images, keras.layers.Dense(4, use_bias=False)(images))
        model = FaceClassifier(network, 12, gradient=gradient)
        start = model.head_layer.kernel.value
        model.head_layer.kernel.assign(start / tf.norm(start, axis=0))
        loss = losses.ASoftmaxLoss(2, annealing=1e6, label_smoothing=0.5)
        model.compile(keras.optimizers.SGD(1.0), loss=loss)
        model.train_on_batch(x, np.arange(6))
        weights.append(network.get_weights()[0])
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-5)


def test_weights_multiply_magfaces_regularizer():
    outputs = table("magface", np.full((3, CLASSES), 1.5), np.array([1.0, 3.0, 9.0]))
    labels, weights = np.array([0, 1, 2]), np.array([0.0, 1.0, 3.0])
    loss = losses.MagFaceLoss(1.0, lower_norm=1, upper_norm=5, regularizer=200)
    each = np.asarray(loss.per_example(labels, outputs))
    assert each[0] - each[1] > 100  # it is a part of each example's loss
    expected = float(np.mean(weights * each))
    assert float(loss(labels, outputs, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


WEIGHTS = {0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0}


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.normal(size=(8, 8)).astype("float32"), np.array([0, 1, 2, 3, 0, 1, 2, 3])


def gradient_of_repeated(model: FaceClassifier, x: np.ndarray, labels: np.ndarray) -> list[Any]:
    """Return the gradient's sum with each example repeated as often as its class weighs."""
    times = [int(WEIGHTS[label]) for label in labels]
    x, labels = np.repeat(x, times, axis=0), np.repeat(labels, times)
    with tf.GradientTape() as tape:
        outputs = model.head_layer(model.backbone(x))
        value = model.loss(labels, outputs) * len(labels)
    return tape.gradient(value, [v.value for v in model.trainable_variables])


@pytest.mark.parametrize(  # every pair of loss, compiler and number of replicas
    ("name", "head", "where"),
    [
        ("cosface", "angular", "one device"),
        ("cosface", "angular", "replicas and xla"),
        ("sphereface2", "sphereface2", "xla"),
        ("sphereface2", "sphereface2", "replicas"),
    ],
)
def test_a_weight_of_k_is_k_times_the_example(name, head, where, two_replicas):
    loss = MAKE[name](0.1)
    strategy = two_replicas if "replicas" in where else tf.distribute.get_strategy()
    with strategy.scope():
        model = classifier(loss, head, jit_compile="xla" in where)
    x, labels = data()
    plain = classifier(loss, head)
    before = plain.get_weights()
    model.set_weights(before)
    gradients = gradient_of_repeated(plain, x, labels)
    model.fit(x, labels, batch_size=8, shuffle=False, verbose=0, class_weight=WEIGHTS)
    trainable = [v.numpy() for v in model.trainable_variables]
    starts = [v.numpy() for v in plain.trainable_variables]
    for after, start, gradient in zip(trainable, starts, gradients, strict=True):
        # Keras divides the weighted sum by the number of examples; the rate is 0.1
        np.testing.assert_allclose(after, start - 0.1 * gradient / 8, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels_shape", [(8,), (8, 1)])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_class_weights_in_a_stock_model(labels_shape, as_dataset):
    x, labels = data()
    images = keras.Input((8,))
    model = keras.Model(images, AngularDense(4)(images))
    model.compile("sgd", loss=losses.ArcFaceLoss(8.0, 0.2))
    weights = np.array([WEIGHTS[label] for label in labels])
    each = losses.ArcFaceLoss(8.0, 0.2, reduction="none")
    expected = float(np.mean(weights * np.asarray(each(labels, model(x)))))
    source: Any = (x, labels.reshape(labels_shape).astype("int32"))
    fed = (tf.data.Dataset.from_tensor_slices(source).batch(8),) if as_dataset else source
    options: dict[str, Any] = {} if as_dataset else {"batch_size": 8}
    history = model.fit(*fed, class_weight=WEIGHTS, verbose=0, **options).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
