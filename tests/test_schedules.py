from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_sphereface.schedules import LambdaAnnealing


def test_golden_values_of_the_released_layer():
    annealing = LambdaAnnealing()
    assert annealing(1) == pytest.approx(892.857142857)
    assert annealing(1658) == pytest.approx(5.0010002)
    assert annealing(1659) == 5.0
    assert annealing(10**9) == 5.0


def test_a_tensor_gives_the_same_in_float32():
    annealing = LambdaAnnealing()
    steps = np.array([1, 2, 100, 1658, 1659, 5000])
    expected = [annealing(int(s)) for s in steps]
    # One rounding in the sum, one in the power: a few units of float32's 6e-8.
    np.testing.assert_allclose(annealing(tf.constant(steps)), expected, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100_000), st.floats(0.01, 1.0), st.floats(0.1, 100.0), st.floats(0.5, 2.0))
def test_for_steps_reaches_the_minimum_where_asked(total, reach, minimum, power):
    annealing = LambdaAnnealing.for_steps(total, reach, minimum=minimum, power=power)
    at = reach * total
    assert annealing(at) == minimum
    assert annealing(at * 0.99) > minimum


def test_for_steps_of_the_default_run_is_the_default_curve():
    scaled = LambdaAnnealing.for_steps(4146, reach=0.4)  # 40 % are the default's 1658.3 updates
    assert scaled.gamma == pytest.approx(0.12, rel=1e-4)


def test_round_trip():
    annealing = LambdaAnnealing(500.0, 0.3, 2.0, 1.0)
    config = keras.saving.serialize_keras_object(annealing)
    assert keras.saving.deserialize_keras_object(config) == annealing
    assert hash(annealing) == hash(LambdaAnnealing(500.0, 0.3, 2.0, 1.0))
    assert "base=500" in repr(annealing)


@pytest.mark.parametrize(
    "arguments", [{"base": 0}, {"gamma": -1}, {"power": -1}, {"minimum": -1}, {"base": np.nan}]
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*Received"):
        LambdaAnnealing(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"total": 0},
        {"total": 10, "reach": 0},
        {"total": 10, "reach": 2},
        {"total": 9, "minimum": 0},
    ],
)
def test_for_steps_refuses_what_cannot_be_reached(arguments):
    with pytest.raises(ValueError, match="Received"):
        LambdaAnnealing.for_steps(**arguments)
