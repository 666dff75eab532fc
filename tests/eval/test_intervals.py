"""Intervals of rates: exact ones, and those of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.eval.draws import ANY_SCORES, LAWS, PAIRS, simulated, split
from tf_sphereface.eval.measures.curve import clopper_pearson
from tf_sphereface.eval.verification import bootstrap, evaluate


@ANY_SCORES
@LAWS
@given(st.integers(0, 60), st.integers(1, 60))
def test_clopper_pearson_limits_leave_a_tail_each(naive, successes, trials):
    assume(successes <= trials)
    low, high = clopper_pearson(successes, trials)
    # At the lower limit so many successes or more have a chance of 2.5 %; at the upper, so many
    # or fewer. A limit without successes (or failures) beyond it is 0 (or 1).
    if successes:
        assert naive.binomial_tail(successes, trials, low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if successes < trials:
        assert 1 - naive.binomial_tail(successes + 1, trials, high) == pytest.approx(
            0.025, rel=1e-6
        )
    else:
        assert high == 1


def test_a_stated_rate_has_an_interval_and_an_unstated_one_has_none():
    scores, same, folds = simulated(2000, separation=0.3)
    result = evaluate(scores, same, folds)
    for far, tar in result.tar_at_far.items():
        interval = result.tar_interval_at_far[far]
        assert (interval is None) == (tar is None)
        if interval is not None:
            assert interval == clopper_pearson(round(1000 * tar), 1000)
            assert interval[0] < tar < interval[1]


def test_bootstrap_intervals_hold_the_figures_and_repeat():
    scores, same, folds = simulated(2000, separation=0.3)
    result = evaluate(scores, same, folds)
    found = bootstrap(scores, same, repeats=300, seed=5)
    assert found == bootstrap(scores, same, repeats=300, seed=5)
    assert found != bootstrap(scores, same, repeats=300, seed=6)
    assert found.auc[0] < result.auc < found.auc[1]
    assert found.eer[0] < result.eer < found.eer[1]
    assert found.tar_at_far[1e-3] is None
    low, high = found.tar_at_far[1e-2]
    assert low < result.tar_at_far[1e-2] < high
    # The threshold is drawn too: wider than with the threshold as it is.
    exact = result.tar_interval_at_far[1e-2]
    assert high - low > exact[1] - exact[0]


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_bootstrap_of_any_scores_is_in_range(pairs):
    scores, same, _ = split(pairs)
    assume(len(set(same)) == 2)
    found = bootstrap(scores, same, repeats=20)
    for low, high in (found.auc, found.eer):
        assert 0 <= low <= high <= 1


def test_bootstrap_auc_equals_scikit_learn_on_the_drawn_pairs(monkeypatch):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, same, _ = simulated(200, separation=0.1)
    scores = np.round(scores, 1)  # ties

    class Everything:
        """Draws each pair once."""

        def integers(self, low, high, size):
            return np.arange(low, high)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Everything())
    found = bootstrap(scores, same, repeats=1)
    assert found.auc[0] == pytest.approx(metrics.roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize("options", [{"repeats": 0}, {"confidence": 1.0}])
def test_bootstrap_refuses_nonsense(options):
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        bootstrap([0.9, 0.1], [True, False], **options)
