"""Paired comparisons, against the verification module's own."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval import verification
from tf_sphereface.reproduce.page_sections import verdict
from tf_sphereface.reproduce.statistics import Difference, compare_decisions, sign_flip_p


def test_one_seed_is_what_verification_compares() -> None:
    rng = np.random.default_rng(3)
    same, folds = np.tile([True, False], 100), np.repeat(np.arange(10), 20)
    results = [
        verification.evaluate(same + noise * rng.normal(size=200), same, folds)
        for noise in (0.4, 0.7)
    ]
    expected = verification.compare(*results)
    one, two = (result.correct[None].astype(float) for result in results)
    found = compare_decisions(one, two, folds)
    assert found.accuracy == pytest.approx(expected.difference)
    assert found.std_error == pytest.approx(expected.std_error)
    assert found.p_value == pytest.approx(expected.p_value)


def test_sign_flips_agree_with_the_exact_test() -> None:
    """On gains of +1 and -1 the sign-flip test is McNemar's, up to the number of flips."""
    gains = np.repeat([1.0, -1.0, 0.0], [30, 16, 100])
    exact = compare_decisions(
        (gains > 0)[None].astype(float), (gains < 0)[None].astype(float), np.arange(146) % 2
    ).p_value
    # 20,000 flips give a share near 0.054 within 0.0016, one standard deviation: four of them
    assert sign_flip_p(gains) == pytest.approx(exact, abs=0.0065)


def test_false_alarms_are_as_many_as_they_should_be() -> None:
    """Without a difference, p is below 0.1 in about a tenth of the cases."""
    rng = np.random.default_rng(0)
    low = [sign_flip_p(rng.normal(size=60), flips=400, seed=k) < 0.1 for k in range(400)]
    assert 0.05 < np.mean(low) < 0.16  # binomial: 0.1 +- 0.015


def test_verdicts() -> None:
    assert verdict(None) == "not run"
    assert verdict(Difference(0.01, 0.006, 0.1, [0.01])) == "within noise"
    assert verdict(Difference(-0.02, 0.006, 0.01, [-0.02])) == "the opposite"
    assert verdict(Difference(0.02, 0.006, 0.01, [0.025, 0.02, 0.015])) == "holds"


def test_verdicts_know_of_the_seeds() -> None:
    """Three seeds of one sign are not enough where they are far apart."""
    noise = "within the seeds' noise"
    assert verdict(Difference(0.02, 0.006, 0.01, [0.05, -0.01])) == noise
    assert verdict(Difference(0.02, 0.006, 0.01, [0.04, 0.015, 0.005])) == noise  # t = 1.9 < 4.3
    six = [0.034, 0.018, 0.026, -0.001, 0.03, 0.013]  # t = 3.8 > 2.6, one sign apart
    assert verdict(Difference(0.02, 0.006, 0.01, six)) == "holds"
    assert verdict(Difference(-0.02, 0.006, 0.01, [-value for value in six])) == "the opposite"
    one = Difference(0.02, 0.006, 0.01, [0.02])  # 2 points; 2.8 are two deviations of a difference
    assert verdict(one, seed_spread=0.01) == noise
    assert verdict(one, seed_spread=0.005) == "holds"


def test_the_interval_over_seeds_is_students() -> None:
    """As scipy's test of one sample has it, on either side of 5 %."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(5)
    for _ in range(50):
        found = rng.normal(0.01, 0.01, size=4)
        difference = Difference(float(found.mean()), 0.001, 0.01, found.tolist())
        assert difference.seed_error == pytest.approx(stats.sem(found))
        assert difference.within_seeds is bool(stats.ttest_1samp(found, 0.0).pvalue >= 0.05)
    assert Difference(0.01, 0.001, 0.01, [0.01]).within_seeds is False
