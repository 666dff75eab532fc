"""SphereFace2's bias: how it starts, how it travels, and which head it wants."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import head_output


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [(10, 12.950178), (100, 10.276029), (10_575, 5.581365), (85_742, 3.488239)],
)
def test_the_first_bias_golden(num_classes, expected):
    """Found by bisection on the derivative of the loss, not by the formula."""
    assert losses.sphereface2_bias(num_classes) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 1000, 100_000])
@pytest.mark.parametrize("options", [{}, {"margin": 0.1, "alpha": 0.5, "scale": 20.0, "power": 2}])
def test_the_first_bias_is_the_best_one_at_right_angles(num_classes, options):
    """The derivative with respect to b, all cosines 0, vanishes there."""
    r, m, alpha, t = (
        options.get(key, default)
        for key, default in (("scale", 40.0), ("margin", 0.4), ("alpha", 0.7), ("power", 3.0))
    )
    b = losses.sphereface2_bias(num_classes, **options)
    g = 2 * 0.5**t - 1
    positive = alpha / (1 + np.exp(r * (g - m) + b))
    negative = (1 - alpha) * (num_classes - 1) / (1 + np.exp(-r * (g + m) - b))
    assert positive == pytest.approx(negative, rel=1e-9)


@pytest.mark.parametrize("bias", [-30.0, -3.0, -0.1, 0.0, 0.1, 5.6, 12.5, 100.0])
@pytest.mark.parametrize("norm", [1e-6, 1.0, 1e6])
def test_the_bias_travels_through_the_output(bias, norm):
    variable, norms = tf.Variable(bias), tf.Variable([[norm], [norm]], dtype=tf.float32)
    with tf.GradientTape() as tape:
        outputs = head_output.join(tf.zeros((2, 3)) * norms, norms, variable)
        found = tf.reduce_mean(head_output.shared_bias_of(outputs))
    to_bias, to_norm = tape.gradient(found, [variable, norms])
    # float32 holds 1 + h to 1e-7; for b = -30 that is 1e-7 of h = 1 / 30, squared in b = h - 1 / h.
    assert float(found) == pytest.approx(bias, abs=5e-7 * (1 + bias**2) if bias < 0 else 2e-5)
    assert float(to_bias) == pytest.approx(1.0, rel=1e-4 if bias < 0 else 1e-5)
    assert to_norm is None or np.all(to_norm.numpy() == 0.0)
    assert (outputs.numpy().argmax(axis=1) < 3).all()
    np.testing.assert_allclose(head_output.norms_of(outputs), norm)


def test_the_bias_is_trained():
    head = AngularDense(4, shared_bias=-2.0)
    head.build((None, 3))
    assert [v.path.split("/")[-1] for v in head.trainable_variables] == ["kernel", "shared_bias"]
    with tf.GradientTape() as tape:
        value = losses.SphereFace2Loss()([0, 1], head(np.eye(2, 3, dtype="float32")))
    gradient = tape.gradient(value, head.bias.value)
    step = 1e-2
    values = []
    for shift in (step, -step):
        head.bias.assign(-2.0 + shift)
        values.append(float(losses.SphereFace2Loss()([0, 1], head(np.eye(2, 3, dtype="float32")))))
    expected = (values[0] - values[1]) / (2 * step)
    assert float(gradient) == pytest.approx(expected, rel=1e-2)  # float32 differences


def test_the_layer_makes_its_bias_and_saves_it():
    head = AngularDense(100, shared_bias="sphereface2")
    head.build((None, 3))
    assert float(head.bias.value) == pytest.approx(losses.sphereface2_bias(100), rel=1e-6)
    assert head.compute_output_shape((None, 3)) == (None, 102)
    clone = AngularDense.from_config(head.get_config())
    assert clone.shared_bias == "sphereface2"
    with pytest.raises(ValueError, match=r"`shared_bias` must be a number.*Received"):
        AngularDense(3, shared_bias="cosface")


def outputs_of(biased: bool) -> tf.Tensor:
    head = AngularDense(4, shared_bias=-5.0 if biased else None)
    return head(np.random.default_rng(0).normal(size=(6, 3)).astype("float32"))


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_the_other_head_is_refused(cosine):
    labels = np.zeros(6, "int32")
    with pytest.raises(ValueError, match=r"SphereFace2Loss needs a head with a shared bias.*Face"):
        losses.SphereFace2Loss()(labels, outputs_of(False))
    with pytest.raises(ValueError, match=r"CosFaceLoss needs a head without a bias"):
        losses.CosFaceLoss()(labels, outputs_of(True))
    compiled = tf.function(losses.SphereFace2Loss())
    assert np.isnan(compiled(labels, outputs_of(False)))  # no values while tracing: NaN
    edge = head_output.join(tf.fill((6, 4), 3 * cosine), tf.fill((6, 1), 3.0))
    assert np.isfinite(losses.CosFaceLoss()(labels, edge))  # an opposite centre is no bias


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_say_nothing_of_the_head(biased, value):
    loss = losses.SphereFace2Loss() if biased else losses.CosFaceLoss()
    other = losses.CosFaceLoss() if biased else losses.SphereFace2Loss()
    labels, outputs = np.zeros(6, "int32"), outputs_of(biased).numpy()
    outputs[1:] = value
    assert head_output.has_shared_bias(tf.constant(outputs)) is biased
    assert not np.isfinite(loss(labels, tf.constant(outputs)))
    with pytest.raises(ValueError, match="needs a head with"):
        other(labels, tf.constant(outputs))
    outputs[0] = value
    assert head_output.has_shared_bias(tf.constant(outputs)) is None
    assert not np.isfinite(loss(labels, tf.constant(outputs)))


@pytest.mark.parametrize(
    ("shared_bias", "loss", "message"),
    [
        (None, losses.SphereFace2Loss(), r'shared_bias="sphereface2"'),
        ("sphereface2", losses.ArcFaceLoss(), "ArcFaceLoss needs a head without a bias"),
        ("sphereface2", losses.ASoftmaxLoss(annealing=5.0), "ASoftmaxLoss needs a head without"),
    ],
)
def test_a_stock_model_with_the_other_head_is_refused(shared_bias, loss, message):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, AngularDense(4, shared_bias=shared_bias)(inputs))
    model.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((4, 3)), np.zeros(4), verbose=0)


@pytest.mark.parametrize(
    ("head", "loss", "message"),
    [
        ("angular", losses.SphereFace2Loss(), 'head="sphereface2"'),
        ("sphereface2", losses.CosFaceLoss(), 'head="angular"'),
        ("sphereface2", "mse", 'head="sphereface2" needs a loss of tf_sphereface'),
        ("softmax", losses.NormFaceLoss(), 'needs head="angular"'),
    ],
)
def test_a_face_classifier_with_the_other_head_is_refused(head, loss, message):
    inputs = keras.Input((8,))
    backbone = keras.Model(inputs, keras.layers.Dense(6)(inputs))
    with pytest.raises(ValueError, match=message):
        FaceClassifier(backbone, num_classes=4, head=head).compile("sgd", loss=loss)
