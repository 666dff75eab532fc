"""Laws of every loss with a scale: oracles, laws, extremes, compilers, serialisation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import losses
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import head_output

MAKE: dict[str, Callable[[], losses.MarginLoss]] = {
    "normface": lambda: losses.NormFaceLoss(30.0),
    "cosface": lambda: losses.CosFaceLoss(30.0, 0.35),
    "arcface": lambda: losses.ArcFaceLoss(30.0, 0.5),
    "v0": lambda: losses.SphereFaceRLoss("v0", 1.7, 30.0),
    "v1": lambda: losses.SphereFaceRLoss("v1", 1.7, 30.0),
    "v2": lambda: losses.SphereFaceRLoss("v2", 1.7, 30.0),
    "v0 exact": lambda: losses.SphereFaceRLoss("v0", 1.7, 30.0, detach=False),
    "v1 exact": lambda: losses.SphereFaceRLoss("v1", 1.7, 30.0, detach=False),
    "v2 exact": lambda: losses.SphereFaceRLoss("v2", 1.7, 30.0, detach=False),
    "adaface": lambda: losses.AdaFaceLoss(30.0),
    "magface": lambda: losses.MagFaceLoss(30.0),
    "curricularface": lambda: losses.CurricularFaceLoss(30.0),
    "sphereface2": losses.SphereFace2Loss,
    "sphereface2 exact": lambda: losses.SphereFace2Loss(detach=False),
}
NAMES = list(MAKE)
NO_MARGIN: dict[str, losses.MarginLoss] = {
    "cosface": losses.CosFaceLoss(30.0, 0.0),
    "arcface": losses.ArcFaceLoss(30.0, 0.0),
    **{v: losses.SphereFaceRLoss(v, 1.0, 30.0, detach=False) for v in ("v0", "v1", "v2")},
}
BY_LENGTH = ("adaface", "magface")
BIAS = 1.25


def head(name: str, num_classes: int = 6, embedding_dim: int = 5) -> AngularDense:
    biased = name.startswith("sphereface2")
    layer = AngularDense(num_classes, shared_bias=BIAS if biased else None)
    layer.build((None, embedding_dim))
    return layer


def example(name: str, seed: int = 0) -> tuple[np.ndarray, AngularDense, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(1, 60, (9, 1)) if name in BY_LENGTH else 4.0
    embeddings = (rng.normal(size=(9, 5)) * spread).astype("float32")
    return embeddings, head(name), rng.integers(0, 6, 9)


def oracle(
    reference: Any, name: str, theta: np.ndarray, labels: np.ndarray, norms: np.ndarray
) -> np.ndarray:
    loss, kind = MAKE[name](), name.split()[0]
    if kind in (*BY_LENGTH, "curricularface"):
        margin = getattr(loss, "margin", 0.0)
        return reference.by_length(kind, theta, norms, labels, loss.scale, margin)
    if kind == "sphereface2":
        return reference.sphereface2(theta, labels, BIAS)
    margin = getattr(loss, "margin", 0.0)
    return reference.margin_softmax(kind, theta, labels, loss.scale, margin)


def each(loss: losses.MarginLoss, labels: Any, outputs: Any) -> np.ndarray:
    loss = copy.copy(loss)
    loss.reduction = "none"
    return np.asarray(loss(labels, outputs))


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_oracle(name, reference):
    for seed in range(4):
        embeddings, layer, labels = example(name, seed)
        found = each(MAKE[name](), labels, layer(embeddings))
        theta = reference.angles(embeddings, layer.kernel.numpy())
        expected = oracle(reference, name, theta, labels, np.linalg.norm(embeddings, axis=1))
        # float32 cosines, times a scale of 30 or 50
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def angle_outputs(name: str, theta: np.ndarray, dtype: str = "float64") -> Any:
    """Three classes; the target is the first, and all angles are given."""
    bias = tf.constant(BIAS, dtype) if name.startswith("sphereface2") else None
    cosines = tf.cast(np.cos(theta), dtype)
    return head_output.join(cosines, tf.ones((len(theta), 1), dtype), bias)


DETACHED = ("v0", "v1", "v2", "sphereface2")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETACHED])
def test_gradient_equals_finite_differences_in_float64(name):
    """By the cosines, away from the joints. A detached loss has another gradient on purpose."""
    theta = np.random.default_rng(0).uniform(0.05, np.pi - 0.05, (40, 3))
    cosines = tf.Variable(np.cos(theta))
    loss, labels = MAKE[name](), np.zeros(40, "int32")
    bias = tf.constant(BIAS, "float64") if loss.needs_shared_bias else None
    ones = tf.ones((40, 1), "float64")

    def value(c: Any) -> Any:
        return loss.per_example(labels, head_output.join(c, ones, bias))

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(value(cosines))
    found = tape.gradient(total, cosines).numpy()
    step = 1e-6
    for column in range(3):
        shift = np.eye(3)[column] * step
        up, down = (np.asarray(value(tf.constant(cosines.numpy() + s))) for s in (shift, -shift))
        # Central differences at 1e-6: truncation and cancellation are near 1e-8 of up to 1e3.
        np.testing.assert_allclose(found[:, column], (up - down) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_margin_changes_the_value_and_keeps_the_cosines_derivative(name):
    """Autodiff of the same value with the margin's derivative replaced by 1."""
    theta = np.random.default_rng(1).uniform(0.1, 2.9, (20, 3))
    labels = np.zeros(20, "int32")
    outputs = tf.Variable(angle_outputs(name, theta))
    gradients, values = [], []
    for kind in (name, f"{name} exact"):
        with tf.GradientTape() as tape:
            value = MAKE[kind]().per_example(labels, outputs)
        gradients.append(tape.gradient(value, outputs).numpy()[:, :3])
        values.append(value.numpy())
    np.testing.assert_allclose(*values)
    slope = np.ones_like(theta)
    if name == "v0":
        k = np.floor(1.7 * theta / np.pi)
        slope = (-1) ** k * 1.7 * np.sin(1.7 * theta) / np.sin(theta)
    elif name == "v1":
        slope = np.where(1.7 * theta < np.pi, 1.7 * np.sin(1.7 * theta) / np.sin(theta), 0.0)
    elif name == "v2":
        slope = np.sin(theta / 1.7) / np.sin(theta) / 1.7
    else:
        slope = 3 * ((np.cos(theta) + 1) / 2) ** 2
    if name in ("v0", "v1"):
        slope[:, 1:] = 1.0
    elif name == "v2":
        slope[:, 0] = 1.0
    np.testing.assert_allclose(gradients[1], gradients[0] * slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(NO_MARGIN))
def test_without_a_margin_it_is_normface(name):
    embeddings, layer, labels = example(name)
    outputs = layer(embeddings)
    expected = each(losses.NormFaceLoss(30.0), labels, outputs)
    np.testing.assert_allclose(each(NO_MARGIN[name], labels, outputs), expected, atol=2e-5)


def test_normface_is_stock_softmax_on_scaled_cosines():
    embeddings, layer, labels = example("normface")
    outputs = layer(embeddings).numpy()
    cosines = outputs[:, :-1] / -outputs[:, -1:]
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(stock(labels, 12.0 * cosines))
    assert float(losses.NormFaceLoss(12.0)(labels, outputs)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_LENGTH])
def test_neither_the_length_of_x_nor_of_the_centres_matters(name):
    embeddings, layer, labels = example(name)
    loss = MAKE[name]()
    before = each(loss, labels, layer(embeddings))
    layer.kernel.assign(layer.kernel * np.array([0.01, 0.1, 1.0, 10.0, 100.0, 3.0], "float32"))
    for length in (1e-3, 1e3):
        after = each(loss, labels, layer(embeddings * np.float32(length)))
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)  # float32


# CurricularFace takes a step down where a negative passes the target and begins to count as hard.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "curricularface"])
def test_the_loss_rises_with_the_targets_angle_and_falls_with_the_others(name):
    theta = np.full((400, 3), 1.5)
    theta[:, 0] = np.linspace(0, np.pi, 400)
    labels = np.zeros(400, "int32")
    by_target = MAKE[name]().per_example(labels, angle_outputs(name, theta)).numpy()
    assert (np.diff(by_target) >= -1e-9).all()
    by_other = MAKE[name]().per_example(labels + 1, angle_outputs(name, theta)).numpy()
    assert (np.diff(by_other) <= 1e-9).all()


@pytest.mark.parametrize("name", ["cosface", "arcface", "v0", "v1", "v2"])
def test_the_loss_rises_with_the_margin(name):
    embeddings, layer, labels = example(name)
    make = {
        "cosface": lambda m: losses.CosFaceLoss(30.0, m),
        "arcface": lambda m: losses.ArcFaceLoss(30.0, m),
    }.get(name, lambda m: losses.SphereFaceRLoss(name, 1 + m))
    values = [float(make(m)(labels, layer(embeddings))) for m in (0.0, 0.2, 0.4, 0.8)]
    assert values == sorted(set(values))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients_are_bounded_at_the_extremes(name, dtype):
    """Angles 0, pi, pi / 2, joints of psi and a centre of length 0; embeddings of any length."""
    default = {"normface": losses.NormFaceLoss(), "cosface": losses.CosFaceLoss()}
    loss = default.get(name, losses.ArcFaceLoss() if name == "arcface" else MAKE[name]())
    angles = [0.0, np.pi, np.pi / 2, np.pi / 1.7, np.pi - 0.5, 1e-4, np.pi - 1e-4]
    layer = head(name, len(angles) + 1, 2)
    layer.kernel.assign([[*np.cos(angles), 0.0], [*np.sin(angles), 0.0]])
    labels = np.arange(len(angles) + 1)
    for norm in (0.0, 1e-6, 1e-3, 1.0, 1e6):
        x = tf.Variable(tf.cast(np.tile([[norm, 0.0]], (len(labels), 1)), dtype))
        with tf.GradientTape() as tape:
            value = loss(labels, layer(x))
        gradients = tape.gradient(value, [x, *(v.value for v in layer.trainable_variables)])
        for tensor in (value, *gradients):
            found = tf.cast(tensor, "float64").numpy()
            assert np.isfinite(found).all(), norm
            assert np.abs(found).max() < 1e7, norm


@pytest.mark.parametrize("name", NAMES)
def test_eager_graph_and_xla_agree(name):
    embeddings, layer, labels = example(name)
    loss, labels = MAKE[name](), tf.constant(labels, "int32")

    def value_and_gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, layer(x))
        return value, tape.gradient(value, x)

    x = tf.constant(embeddings)
    eager, graph = value_and_gradient(x), tf.function(value_and_gradient)
    compiled = tf.function(lambda x: graph(x), jit_compile=True)  # what was traced, not once more
    for function in (graph, compiled):
        for a, b in zip(eager, function(x), strict=True):
            # Compilers reorder sums; arccos near 1 turns a bit of the cosine into many.
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["arcface", "v2", "sphereface2"])
def test_a_wrong_label_is_an_error_and_nan_in_xla(name):
    embeddings, layer, labels = example(name)
    loss, outputs = MAKE[name](), layer(embeddings)
    graph, compiled = tf.function(loss), tf.function(loss, jit_compile=True)
    for label in (-1, 6):
        labels[3] = label
        with pytest.raises(ValueError, match=rf"\[0, 6\).*Received: \[{label}"):
            loss(labels, outputs)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 6\)"):
            graph(tf.constant(labels), outputs)
        assert np.isnan(compiled(tf.constant(labels), outputs))
    with pytest.raises(ValueError, match="not one-hot"):
        loss(np.eye(6)[:5], outputs)


@pytest.mark.parametrize("name", [*NAMES, "a-softmax"])
def test_serialisation_copy_and_description(name):
    loss = MAKE[name]() if name in MAKE else losses.ASoftmaxLoss(3, annealing=2.0)
    loss.reduction = "sum"
    for other in (
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)),
        type(loss).from_config(loss.get_config()),
        copy.copy(loss),
    ):
        assert type(other) is type(loss)
        assert other.get_config() == loss.get_config()
    assert {"reduction", "name", *type(loss).options} <= set(loss.get_config())
    for number in {"margin", "scale"} & set(loss.options):
        assert f"{number} {getattr(loss, number):g}" in loss.describe()
    assert loss.needs_step is False


@pytest.mark.parametrize("name", NAMES)
def test_16_bit_embeddings_are_lifted_to_float32(name):
    embeddings, layer, labels = example(name)
    half = tf.cast(embeddings, "float16")
    outputs = layer(half)
    assert outputs.dtype == "float32"
    expected = float(MAKE[name]()(labels, layer(tf.cast(half, "float32"))))
    assert float(MAKE[name]()(labels, outputs)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.CosFaceLoss(scale=0), r"`scale` must be a number in \(0, inf\)"),
        (lambda: losses.CosFaceLoss(margin=-0.1), r"`margin` must be .*Received: margin=-0.1"),
        (lambda: losses.ArcFaceLoss(margin=math.pi), r"`margin` must be .*\[0, 3.14159\)"),
        (lambda: losses.ArcFaceLoss(scale="64"), "`scale`.*'64'"),
        (lambda: losses.NormFaceLoss(scale=float("nan")), "`scale`"),
        (lambda: losses.SphereFaceRLoss("v3"), r"`version` must be one of.*'v3'"),
        (lambda: losses.SphereFaceRLoss(margin=0.9), r"at least 1 .*margin=0.9"),
        (lambda: losses.SphereFaceRLoss(margin=True), "margin=True"),
        (lambda: losses.AdaFaceLoss(h=-1), r"`h` must be a number in \[0, inf\)"),
        (lambda: losses.AdaFaceLoss(t_alpha=1.5), r"`t_alpha` must be a number in \(0, 1\].*1.5"),
        (lambda: losses.MagFaceLoss(upper_norm=9), r"`upper_norm` must be .*\(10, inf\)"),
        (lambda: losses.MagFaceLoss(upper_margin=0.4), "be at least lower_margin=0.45.*0.4"),
        (lambda: losses.SphereFace2Loss(alpha=1.0), r"`alpha` must be a number in \(0, 1\)"),
        (lambda: losses.SphereFace2Loss(power=0.5), r"`power`"),
        (lambda: losses.SphereFace2Loss(weight=0), r"`weight`"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
