from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_sphereface.optimizers import WarmUpDecay


def rates(schedule, count):
    return np.array([float(schedule(update)) for update in range(count)])


def test_without_warm_up_the_rates_are_those_of_keras():
    theirs = keras.optimizers.schedules
    for ours, other in (
        (WarmUpDecay(0.1, 50), theirs.CosineDecay(0.1, 50)),
        (
            WarmUpDecay(0.1, 50, "polynomial", power=2.0),
            theirs.PolynomialDecay(0.1, 50, end_learning_rate=0.0, power=2.0),
        ),
        (
            WarmUpDecay(0.1, 50, "step", drops=[20, 40]),
            theirs.PiecewiseConstantDecay([19, 39], [0.1, 0.1 * 0.1, 0.1 * 0.1**2]),
        ),
    ):
        # float32: the two cosines round otherwise
        np.testing.assert_allclose(rates(ours, 55), rates(other, 55), rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["step", "cosine", "polynomial"]),
    st.integers(1, 30),
    st.integers(0, 40),
    st.floats(0.3, 3.0),
)
def test_a_rate_rises_then_falls_and_is_never_negative(decay, total, warm_up, power):
    drops = [total // 2] if decay == "step" and total > 1 else ()
    found = rates(WarmUpDecay(0.1, total, decay, warm_up=warm_up, power=power, drops=drops), 45)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found[:total] > 0).all()  # no update of the run is lost
    end = min(warm_up, total)
    if not drops:
        assert (np.diff(found[:end]) > 0).all()
    assert (np.diff(found[max(warm_up - 1, 0) :]) <= 0).all()
    if warm_up and warm_up <= total and not drops:
        assert found[warm_up - 1] == pytest.approx(0.1)
        assert found[0] == pytest.approx(0.1 / warm_up)


def test_rates_are_the_same_in_a_graph_and_under_xla_and_after_a_round_trip():
    schedule = WarmUpDecay(0.1, 100_000_000, "cosine", warm_up=1000)
    config = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(config)
    for update in (0, 999, 1000, 50_000_000, 99_999_999):
        step = tf.constant(update, tf.int64)
        right = 0.1 * min(1, (update + 1) / 1000)
        right *= 0.5 * (1 + np.cos(np.pi * max(update - 1000, 0) / (1e8 - 1000)))
        for function in (copy, tf.function(schedule), tf.function(schedule, jit_compile=True)):
            assert float(function(step)) == pytest.approx(right, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "arguments",
    [
        {"total": 0},
        {"decay": "linear"},
        {"warm_up": -1},
        {"power": 0},
        {"learning_rate": 0},
        {"drops": [3]},
        {"drops": [5, 3], "decay": "step"},
    ],
)
def test_a_rate_that_cannot_be_meant_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        WarmUpDecay(**{"learning_rate": 0.1, "total": 9, **arguments})
