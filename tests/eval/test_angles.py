from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tf_sphereface.eval.measures.angles import (
    angle_distribution,
    angular_fisher_score,
    degrees,
    norms_of,
)

CLOUD = hnp.arrays(np.float64, (12, 3), elements=st.integers(-9, 9).map(float))


def test_a_distribution_counts_degrees():
    angles = [0.5, 30.5, 30.7, 90.5, 180.0]
    found = angle_distribution([math.cos(math.radians(a)) for a in angles])
    assert found.mean == pytest.approx(np.mean(angles))
    assert found.std == pytest.approx(np.std(angles, ddof=1))
    assert (found.minimum, found.maximum) == (pytest.approx(0.5), pytest.approx(180.0))
    assert found.quantiles[0.5] == pytest.approx(30.7)
    assert {int(k): int(found.counts[k]) for k in np.flatnonzero(found.counts)} == {
        0: 1,
        30: 2,
        90: 1,
        179: 1,
    }


@pytest.mark.parametrize("values", [[], [1.1], [-2.0, 0.0]])
def test_what_is_no_cosine_has_no_angle(values):
    with pytest.raises(ValueError, match="cosines must be numbers from -1 to 1"):
        angle_distribution(values)


def test_rounding_errors_past_one_are_cut_off():
    assert degrees([1.0, 0.0, -1.5]).tolist() == [0.0, 90.0, 180.0]


def test_vectors_without_a_direction_are_told():
    norms, bad = norms_of(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]]))
    assert norms[0] == [5.0]
    assert bad.tolist() == [1, 2]


@settings(max_examples=100, deadline=None)
@given(CLOUD)
def test_fisher_score_equals_the_naive_one(naive, vectors):
    labels = [f"P{i % 3}" for i in range(12)]
    centres = [vectors[i::3].mean(axis=0) for i in range(3)]
    norms = np.linalg.norm([*vectors, *centres, vectors.mean(axis=0)], axis=1)
    assume(norms.min() > 1e-3)
    found = angular_fisher_score(vectors, labels)
    assume(math.isfinite(found))
    expected = naive.angular_fisher_score(vectors.tolist(), labels)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_fisher_score_falls_when_classes_close_up():
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(10, 8)), 20, axis=0)
    noise, labels = rng.normal(size=(200, 8)), np.repeat(np.arange(10), 20)
    scores = [angular_fisher_score(centres + s * noise, labels) for s in (1.0, 0.5, 0.1, 0.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0
    assert angular_fisher_score(7 * (centres + noise), labels) == pytest.approx(scores[0])


def test_fisher_score_without_spread_between_the_classes_is_infinite():
    assert angular_fisher_score([[1, 0], [1, 1], [1, 1], [1, 0]], [0, 0, 1, 1]) == math.inf


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        ([[1, 0], [0, 1]], [0, 0], "two classes at least"),
        ([[1, 0], [0, 1]], [0], "shape"),
        ([[1, 0], [0, 0]], [0, 1], "an embedding is zero"),
        ([[1, 0], [-1, 0], [0, 1]], [0, 0, 1], "the mean of a class is zero"),
    ],
)
def test_fisher_score_refuses_what_has_no_angle(vectors, labels, message):
    with pytest.raises(ValueError, match=message):
        angular_fisher_score(vectors, labels)
