from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_sphereface import angular

MARGINS = (1, 2, 3, 4)
ANGLES = st.floats(0.0, math.pi)
LAWS = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize("margin", MARGINS)
def test_cos_multiple_angle_is_the_cosine_of_the_multiple(margin):
    theta = np.linspace(0, np.pi, 2001)
    found = np.asarray(angular.cos_multiple_angle(np.cos(theta), margin))
    np.testing.assert_allclose(found, np.cos(margin * theta), atol=1e-14)  # float64 rounding


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_equals_its_definition_by_intervals(margin, reference):
    theta = np.linspace(0, np.pi, 2001)
    found = np.asarray(angular.psi(np.cos(theta), margin))
    expected = [reference.psi(t, margin) for t in theta]
    np.testing.assert_allclose(found, expected, atol=1e-13)  # float64 rounding


@pytest.mark.parametrize(
    ("margin", "cosine", "expected"),
    [
        (1, 0.3, 0.3),
        (2, 0.0, -1.0),
        (2, -1.0, -3.0),
        (2, 0.5, -0.5),
        (3, 0.5, -1.0),
        (3, 0.0, -2.0),
        (3, -0.5, -3.0),
        (3, -1.0, -5.0),
        (4, 1.0, 1.0),
        (4, math.sqrt(0.5), -1.0),
        (4, 0.0, -3.0),
        (4, -math.sqrt(0.5), -5.0),
        (4, -1.0, -7.0),
    ],
)
def test_psi_golden_values(margin, cosine, expected):
    # 1e-6: float32 cannot hold sqrt(1/2) exactly, and T_4 multiplies that by 16.
    assert float(angular.psi(cosine, margin)) == pytest.approx(expected, abs=1e-6)


@LAWS
@given(ANGLES, ANGLES, st.sampled_from(MARGINS))
def test_psi_falls_from_1_to_1_minus_2m(a, b, margin):
    near, far = sorted((a, b))
    values = np.asarray(angular.psi(np.cos([near, far]), margin))
    assert 1 + 1e-12 >= values[0] >= values[1] - 1e-12
    assert values[1] >= 1 - 2 * margin - 1e-12


@LAWS
@given(st.sampled_from(MARGINS), st.integers(0, 4), st.floats(1e-9, 1e-7))
def test_psi_is_continuous_at_the_joints(margin, k, step):
    joint = min(k, margin) * math.pi / margin
    below, above = max(joint - step, 0.0), min(joint + step, math.pi)
    left, right = np.asarray(angular.psi(np.cos([below, above]), margin))
    assert abs(left - right) <= 2 * margin * (above - below) + 1e-12  # |dpsi/dtheta| <= margin


@LAWS
@given(ANGLES, st.floats(0.1, 50.0), st.sampled_from(MARGINS), st.floats(0.0, 2000.0))
def test_blend_is_the_written_formula(theta, norm, margin, lambda_):
    c = np.array([np.cos(theta)])  # an array: Keras takes scalars for float32
    found = float(angular.a_softmax_logit(c, norm, margin, lambda_)[0])
    plain = float(angular.psi(c, margin)[0])
    assert found == pytest.approx(norm * (lambda_ * c[0] + plain) / (1 + lambda_), abs=1e-9 * norm)


def test_an_endless_lambda_recovers_the_plain_logit():
    c = np.linspace(-1, 1, 11)
    found = np.asarray(angular.a_softmax_logit(c, 3.0, 4, np.inf))
    np.testing.assert_array_equal(found, 3.0 * c)


@pytest.mark.parametrize("margin", [2, 3, 4])
def test_gradient_equals_the_closed_form(margin, reference):
    rng = np.random.default_rng(margin)
    w = rng.normal(size=5)
    w /= np.linalg.norm(w)
    for x in rng.normal(size=(50, 5)) * rng.uniform(0.1, 30, (50, 1)):
        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            norm = tf.norm(variable)
            logit = norm * angular.psi(tf.tensordot(variable, w, 1) / norm, margin)
        found = tape.gradient(logit, variable).numpy()
        np.testing.assert_allclose(found, reference.psi_gradient(x, w, margin), rtol=1e-9)


@pytest.mark.parametrize("margin", MARGINS)
def test_gradient_equals_finite_differences(margin):
    rng = np.random.default_rng(1)
    c = tf.Variable(rng.uniform(-0.999, 0.999, 200))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(angular.a_softmax_logit(c, 2.0, margin, 3.0))
    step = 1e-6
    up, down = (
        np.asarray(angular.a_softmax_logit(c.numpy() + d, 2.0, margin, 3.0)) for d in (step, -step)
    )
    # Central differences at 1e-6: truncation and float64 cancellation are both near 1e-9.
    np.testing.assert_allclose(tape.gradient(value, c), (up - down) / (2 * step), atol=1e-6)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_value_and_gradient_are_finite_at_every_joint(margin, dtype):
    joints = np.cos(np.arange(margin + 1) * np.pi / margin)
    c = tf.Variable(tf.cast(np.concatenate([joints, [0.0, 1.0, -1.0]]), dtype))
    with tf.GradientTape() as tape:
        logit = angular.a_softmax_logit(c, tf.cast(30.0, dtype), margin, 5.0)
    gradient = tape.gradient(logit, c)
    assert logit.dtype == dtype
    assert np.isfinite(tf.cast(logit, "float64")).all()
    assert np.isfinite(tf.cast(gradient, "float64")).all()


def test_eager_graph_and_xla_agree():
    c = tf.constant(np.linspace(-1, 1, 101), tf.float32)

    def value(cosine):
        return angular.a_softmax_logit(cosine, 7.0, 4, 5.0)

    eager = value(c).numpy()
    # Compilers reorder and fuse: a few units in the last place of 7 * 7.
    np.testing.assert_allclose(tf.function(value)(c).numpy(), eager, atol=2e-5)
    np.testing.assert_allclose(tf.function(value, jit_compile=True)(c).numpy(), eager, atol=2e-5)


@pytest.mark.parametrize(("lambda_", "expected"), [(5, 1.37), (3, 1.56), (1, 2.28), (0, 4.0)])
def test_effective_margin_of_m_4(lambda_, expected):
    assert float(angular.effective_margin(4, lambda_)) == pytest.approx(expected, abs=0.005)


def test_effective_margin_lies_between_1_and_the_margin_and_falls_with_lambda():
    for margin in MARGINS:
        values = np.asarray(angular.effective_margin(margin, np.array([0.0, 1, 5, 50, 1e6])))
        assert np.all(np.diff(values) <= 1e-6)
        assert values[0] == pytest.approx(margin, abs=0.002)  # the table's step is 0.001
        assert values[-1] == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("margin", [0, 5, 2.5, True, "4", None])
def test_another_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"must be one of.*Received: margin="):
        angular.psi(0.5, margin)


def test_integers_become_float32():
    assert keras.backend.standardize_dtype(angular.psi(1, 2).dtype) == "float32"


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_slope_is_the_derivative_of_psi(margin):
    c = tf.Variable(np.linspace(-1, 1, 1001))
    with tf.GradientTape() as tape:
        value = angular.psi(c, margin)
    expected = tape.gradient(value, c)
    np.testing.assert_allclose(angular.psi_slope(c.value(), margin), expected, atol=1e-12)


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_real_of_an_integer_is_psi(margin):
    c = tf.Variable(np.cos(np.linspace(2e-3, np.pi - 2e-3, 1000)))
    results = []
    for function in (angular.psi, angular.psi_real):
        with tf.GradientTape() as tape:
            value = function(c, margin)
        results.append((value.numpy(), tape.gradient(value, c).numpy()))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-13)  # float64
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-9)


REAL = {
    "psi 1.5": (lambda c: angular.psi_real(c, 1.5), lambda t, r: r.real_psi(t, 1.5)),
    "psi 3.7": (lambda c: angular.psi_real(c, 3.7), lambda t, r: r.real_psi(t, 3.7)),
    "scaled 1.5": (
        lambda c: angular.cos_scaled_angle(c, 1.5),
        lambda t, r: math.cos(min(1.5 * t, math.pi)),
    ),
    "scaled 0.6": (lambda c: angular.cos_scaled_angle(c, 0.6), lambda t, r: math.cos(0.6 * t)),
    "shifted 0.5": (
        lambda c: angular.cos_shifted_angle(c, 0.5),
        lambda t, r: math.cos(t + 0.5) if t + 0.5 <= math.pi else -2 - math.cos(t + 0.5),
    ),
}


@pytest.mark.parametrize("name", list(REAL))
def test_real_margins_equal_the_definitions(name, reference):
    function, definition = REAL[name]
    theta = np.linspace(0, np.pi, 2001)
    found = np.asarray(function(np.cos(theta)))
    expected = [definition(t, reference) for t in theta]
    # Within SINE_FLOOR of 0 and pi ArcFace's sine is a line, off by up to a quarter of the floor.
    near = 1.3e-4 if name.startswith("shifted") else 1e-7  # cos(1e-8) is 1: arccos sees that
    np.testing.assert_allclose(found, expected, atol=near)
    assert (np.diff(found) <= 1e-12).all()  # all fall, past pi too


@pytest.mark.parametrize("name", list(REAL))
def test_real_margins_have_the_exact_gradient(name, reference):
    function, definition = REAL[name]
    theta = np.random.default_rng(0).uniform(0.01, np.pi - 0.01, 300)
    c = tf.Variable(np.cos(theta))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(function(c))
    step = 1e-6
    expected = [
        (definition(t - step, reference) - definition(t + step, reference)) / (2 * step) / np.sin(t)
        for t in theta
    ]
    # Central differences: 1e-10 of cancellation over a step of 1e-6, over sines of 0.01.
    np.testing.assert_allclose(tape.gradient(value, c), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", list(REAL))
def test_real_margins_are_bounded_everywhere(name, dtype):
    function, _ = REAL[name]
    joints = np.cos(np.arange(6) * np.pi / 3.7)
    edges = [1.0, -1.0, 0.0, 1 + 1e-6, -1 - 1e-6, -math.cos(0.5), math.cos(np.pi / 1.5)]
    c = tf.Variable(tf.cast(np.concatenate([joints, edges]), dtype))
    with tf.GradientTape() as tape:
        value = function(c)
    gradient = tf.cast(tape.gradient(value, c), "float64").numpy()
    assert value.dtype == dtype
    assert np.isfinite(tf.cast(value, "float64")).all()
    assert np.isfinite(gradient).all()
    assert gradient.max() <= 4 / angular.SINE_FLOOR


def test_the_slope_at_0_is_the_margin_squared():
    c = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        value = angular.psi_real(c, 1.5)
    assert float(tape.gradient(value, c)) == pytest.approx(2.25)


@pytest.mark.parametrize("margin", [0.99, math.inf, math.nan, True, "2"])
def test_another_real_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"at least 1.*Received: margin="):
        angular.psi_real(0.5, margin)
