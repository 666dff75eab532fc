from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.eval.draws import ANY_SCORES, LAWS, PAIRS, simulated, split
from tf_sphereface.eval.verification import compare, evaluate, evaluate_split
from tf_sphereface.utils.messages import SphereFaceWarning


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_equals_the_naive_evaluator(naive, pairs):
    scores, same, folds = split(pairs)
    result, expected = evaluate(scores, same, folds), naive.evaluate(scores, same, folds)
    assert result.fold_accuracies.tolist() == expected["fold_accuracies"]
    assert result.thresholds.tolist() == pytest.approx(expected["thresholds"], abs=1e-15)
    assert result.accuracy == pytest.approx(expected["accuracy"], abs=1e-15)
    assert result.std_error == pytest.approx(expected["std_error"], abs=1e-15)
    assert result.auc == pytest.approx(expected["auc"], abs=1e-12)
    by_fold = [np.mean(result.correct[result.folds == fold]) for fold in result.fold_ids]
    assert result.fold_accuracies.tolist() == by_fold


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_a_positive_affine_map_changes_nothing(pairs):
    # 2 s + 1 is exact for these scores, so midpoints and their means move along exactly.
    scores, same, folds = split(pairs)
    first = evaluate(scores, same, folds)
    second = evaluate(2 * np.array(scores) + 1, same, folds)
    assert first.fold_accuracies.tolist() == second.fold_accuracies.tolist()
    assert (2 * first.thresholds + 1).tolist() == pytest.approx(second.thresholds.tolist())


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_the_curve_depends_on_the_order_of_scores_alone(pairs):
    scores, same, folds = split(pairs)
    first = evaluate(scores, same, folds)
    second = evaluate(np.exp(3 * np.array(scores)), same, folds)
    assert (first.auc, first.eer, first.tar_at_far) == (second.auc, second.eer, second.tar_at_far)


@ANY_SCORES
@LAWS
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_pairs_and_the_names_of_folds_do_not_matter(pairs, random):
    scores, same, folds = split(pairs)
    first = evaluate(scores, same, folds)
    shuffled = list(zip(scores, same, folds, strict=True))
    random.shuffle(shuffled)
    scores, same, folds = split(shuffled)
    second = evaluate(scores, same, [10 * fold + 7 for fold in folds])
    assert first.fold_accuracies.tolist() == second.fold_accuracies.tolist()
    assert first.thresholds.tolist() == pytest.approx(second.thresholds.tolist())


def test_a_score_at_the_threshold_is_wrong_for_either_class():
    # Each fold's threshold, from the other, is 0.5; fold 2 has one pair of each class right on it.
    scores = [0.75, 0.25, 0.5, 0.5, 1.0, 0.0]
    result = evaluate(scores, [True, False, True, False, True, False], [1, 1, 2, 2, 2, 2])
    assert result.thresholds[1] == 0.5
    assert result.correct.tolist()[2:] == [False, False, True, True]


def test_all_best_midpoints_are_averaged():
    # Outside fold 2 the midpoints 0.375 and 0.625 are equally good (5 of 6 pairs right).
    scores = [0.25, 0.5, 0.5, 0.75, 0.0, 1.0, 0.0, 1.0]
    same = [False, True, False, True, False, True, False, True]
    assert evaluate(scores, same, [1] * 6 + [2] * 2).thresholds[1] == 0.5


def test_constant_scores_are_worth_a_coin():
    result = evaluate(np.full(40, 0.3), [True, False] * 20, np.arange(40) // 10)
    assert (result.accuracy, result.auc, result.eer) == (0.5, 0.5, 0.5)
    assert np.all(np.isneginf(result.thresholds))


def test_reversed_scores_fall_back_to_one_answer_for_all():
    # No midpoint beats calling everything genuine: half of a balanced fold is right, not less.
    with pytest.warns(SphereFaceWarning, match="are these distances"):
        result = evaluate([0.0, 1.0] * 10, [True, False] * 10, np.arange(20) // 4)
    assert result.accuracy == 0.5
    assert result.auc == 0.0


def test_separable_scores_are_perfect():
    result = evaluate([0.9, 0.1] * 10, [True, False] * 10, np.arange(20) // 4)
    assert (result.accuracy, result.std_error, result.auc, result.eer) == (1.0, 0.0, 1.0, 0.0)


def test_the_standard_error_is_over_folds_with_n_minus_1():
    # Fold accuracies 1, 1, 0: sd(n-1) = sqrt(1/3), over sqrt(3).
    scores, same = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0], [True, False] * 3
    result = evaluate(scores * 2, same * 2, [1, 1, 2, 2, 3, 3] * 2)
    assert result.fold_accuracies.tolist() == [1.0, 1.0, 0.0]
    assert result.std_error == pytest.approx(1 / 3)


def test_a_rate_that_the_pairs_cannot_support_is_none_and_says_why():
    scores, same, folds = simulated(2000, separation=0.3)
    result = evaluate(scores, same, folds)
    assert set(result.tar_at_far) == {1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6}
    assert result.tar_at_far[1e-2] is not None  # 1,000 impostor pairs are exactly enough
    assert result.tar_at_far[1e-3] is None
    assert result.threshold_at_far[1e-3] is None
    assert result.tar_at_far_reasons[1e-3] == "needs 10,000 impostor pairs, there are 1,000"
    fewer = np.arange(2000) != np.flatnonzero(~same)[0]
    assert evaluate(scores[fewer], same[fewer], folds[fewer]).tar_at_far[1e-2] is None


@pytest.mark.parametrize("digits", [2, 9])
def test_tar_at_far_equals_counting(naive, digits):
    scores, same, folds = simulated(2000, separation=0.3)
    scores = np.round(scores, digits)  # two digits: ties across the classes
    result = evaluate(scores, same, folds)
    for far in (Fraction(1, 10), Fraction(1, 100)):
        tar = naive.tar_at_far(scores.tolist(), same.tolist(), far)
        assert result.tar_at_far[float(far)] == pytest.approx(tar, abs=1e-12)
        cut = result.threshold_at_far[float(far)]
        assert Fraction(int(np.sum(scores[~same] >= cut)), int(np.sum(~same))) <= far
        assert np.mean(scores[same] >= cut) == pytest.approx(tar, abs=1e-12)


def test_the_equal_error_rate_lies_where_both_errors_meet():
    scores, same, folds = simulated(6000, separation=0.3)
    eer = evaluate(scores, same, folds).eer
    cut = np.quantile(scores[~same], 1 - eer)
    # The quantile and the interpolation may each move a pair or so of 3,000.
    assert np.mean(scores[same] < cut) == pytest.approx(eer, abs=3 / 3000)


def test_mean_angles_are_degrees_of_cosines():
    scores = [math.cos(math.radians(a)) for a in (30, 80, 40, 100)]
    result = evaluate(scores, [True, False] * 2, [1, 1, 2, 2])
    assert result.genuine_angle == pytest.approx(35)
    assert result.impostor_angle == pytest.approx(90)
    assert evaluate([3.0, 1.0, 3.0, 1.0], [True, False] * 2, [1, 1, 2, 2]).genuine_angle is None


@pytest.mark.parametrize("seed", range(5))
def test_the_authors_grid_agrees(seed):
    scores, same, folds = simulated(6000, seed)
    exact = evaluate(scores, same, folds)
    grid = evaluate(scores, same, folds, search="grid")
    # The mean of the midpoints and that of the grid points weigh equally good intervals apart;
    # with simulated pairs as dense as these that moves up to two of 6,000, mostly none.
    assert abs(int(exact.correct.sum()) - int(grid.correct.sum())) <= 2
    # Best midpoints and best grid points are averaged over the same optimal intervals.
    assert exact.thresholds == pytest.approx(grid.thresholds, abs=0.01)


def test_one_row_a_fold_uses_each_fold_with_its_own_scores():
    scores, same, folds = simulated(600, separation=0.2)
    rows = np.stack([scores + k for k in range(10)])  # a shift of a whole row changes nothing
    result, plain = evaluate(rows, same, folds), evaluate(scores, same, folds)
    assert result.fold_accuracies.tolist() == plain.fold_accuracies.tolist()
    assert result.thresholds - np.arange(10) == pytest.approx(plain.thresholds, abs=1e-12)
    assert result.scores == pytest.approx(scores + folds - 1)


def test_comparison_counts_discordant_pairs():
    scores, same, folds = simulated(2000, separation=0.2)
    worse = scores + np.random.default_rng(1).normal(0, 0.1, len(scores))
    first, second = evaluate(scores, same, folds), evaluate(worse, same, folds)
    result = compare(first, second)
    assert result.difference == pytest.approx(first.accuracy - second.accuracy)
    assert result.only_first - result.only_second == pytest.approx(2000 * result.difference)
    n, low = result.only_first + result.only_second, min(result.only_first, result.only_second)
    p = sum(math.comb(n, k) for k in range(low + 1)) * 2 / 2**n
    assert result.p_value == pytest.approx(min(1.0, p))
    back = compare(second, first)
    assert (back.difference, back.p_value) == (-result.difference, result.p_value)
    same_twice = compare(first, first)
    assert (same_twice.difference, same_twice.std_error, same_twice.p_value) == (0.0, 0.0, 1.0)


def test_without_folds_the_rates_are_the_same_and_there_is_no_accuracy():
    scores, same, folds = simulated(2000, separation=0.3)
    rates, result = evaluate(scores, same), evaluate(scores, same, folds)
    for name in ("auc", "eer", "tar_at_far", "tar_interval_at_far", "threshold_at_far"):
        assert getattr(rates, name) == getattr(result, name)
    assert (rates.genuine_angle, rates.impostor_angle) == (
        result.genuine_angle,
        result.impostor_angle,
    )
    assert rates.accuracy is rates.std_error is rates.best_on_test is rates.correct is None
    assert not len(rates.thresholds)
    with pytest.raises(ValueError, match="must have folds"):
        compare(rates, result)
    with pytest.raises(ValueError, match="`search` must be left out without folds"):
        evaluate(scores, same, search="grid")
    with pytest.raises(ValueError, match="genuine and impostor"):
        evaluate([0.1, 0.2], [True, True])


def test_comparison_refuses_other_pairs():
    first = evaluate([0.9, 0.1, 0.8, 0.2], [True, False, True, False], [1, 1, 2, 2])
    second = evaluate([0.9, 0.1, 0.8, 0.2], [True, False, False, True], [1, 1, 2, 2])
    with pytest.raises(ValueError, match="the same pairs"):
        compare(first, second)


@pytest.mark.parametrize(
    ("scores", "same", "folds", "message"),
    [
        ([0.9, math.nan, 0.8, 0.2], [1, 0, 1, 0], [1, 1, 2, 2], "nan at pair 1 "),
        ([0.9, 0.1, 0.8, math.inf], [1, 0, 1, 0], [1, 1, 2, 2], "inf at pair 3 "),
        ([0.9, 0.1, 0.8], [1, 0, 1, 0], [1, 1, 2, 2], r"shape \(4,\).*Received: \(3,\)"),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 1], [1, 1, 2, 2], "of one length"),
        ([0.9, 0.1, 0.8, 0.2], [1, 1, 1, 1], [1, 1, 2, 2], "4 genuine and 0 impostor"),
        ([0.9, 0.1, 0.8, 0.2], [0, 0, 0, 0], [1, 1, 2, 2], "0 genuine and 4 impostor"),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [3, 3, 3, 3], "fold 3 only"),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 1], [1, 1, 2, 2], "outside fold 1 are genuine"),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 2, 0], [1, 1, 2, 2], "True or False"),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [1.0, 1.0, 2.0, 2.0], "integers"),
    ],
)
def test_bad_input_is_refused(scores, same, folds, message):
    with pytest.raises(ValueError, match=message):
        evaluate(scores, same, folds)


def test_an_unknown_search_is_refused():
    with pytest.raises(ValueError, match="must be one of 'exact', 'grid'"):
        evaluate([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [1, 1, 2, 2], search="best")


@pytest.mark.parametrize(("pairs", "seconds", "runs"), [(6000, 0.1, 5), (1_000_000, 5.0, 2)])
def test_it_is_quick(pairs, seconds, runs):
    scores, same, folds = simulated(pairs)
    times = []
    for _ in range(runs):  # other processes only ever add
        start = time.process_time()
        evaluate(scores, same, folds)
        times.append(time.process_time() - start)
    assert min(times) < seconds


def test_a_nan_is_refused_with_the_name_of_its_pair():
    names = ["Ann 1 and Ann 2", "Ann 1 and Bob 1", "Cy 1 and Cy 2", "Cy 1 and Dee 1"]
    with pytest.raises(
        ValueError, match=r"nan at pair 1 \(counted from 0\), Ann 1 and Bob 1; 2 su"
    ):
        evaluate([0.9, math.nan, 0.8, math.nan], [1, 0, 1, 0], [1, 1, 2, 2], names=names)
    with pytest.raises(ValueError, match=r"names must name all 4 pairs\. Received: 3"):
        evaluate([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [1, 1, 2, 2], names=names[:3])


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_no_single_threshold_beats_the_best_on_test(pairs):
    scores, same, folds = split(pairs)
    found = evaluate(scores, same, folds).best_on_test

    def right(threshold: float) -> int:
        return sum(s > threshold if y else s < threshold for s, y in zip(scores, same, strict=True))

    assert found.accuracy == right(found.threshold) / len(scores)
    # Scores are eighths: every decision of a threshold is that of an odd sixteenth, or of its end.
    assert right(found.threshold) >= max(right(k / 16) for k in range(-19, 20))


@ANY_SCORES
@LAWS
@given(PAIRS)
def test_a_split_equals_the_last_fold_of_two(pairs):
    scores, same, folds = split(pairs)
    scores, same, last = np.array(scores), np.array(same), np.array(folds) == max(folds)
    assume(len(set(same[last])) == 2)
    assume(len(set(same[~last])) == 2)
    both = evaluate(scores, same, last.astype(int))
    alone = evaluate_split(scores[~last], same[~last], scores[last], same[last])
    assert alone.thresholds.tolist() == [both.thresholds[1]]
    assert alone.accuracy == both.fold_accuracies[1]
    assert alone.correct.tolist() == both.correct[last].tolist()


def test_a_split_tells_the_binomial_error_and_refuses_a_missing_class():
    result = evaluate_split([0.9, 0.1], [True, False], [0.8, 0.6, 0.7, 0.2], [1, 0, 1, 0])
    assert (result.accuracy, result.std_error) == (0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 4)))
    with pytest.raises(ValueError, match="train_is_same must hold genuine and impostor"):
        evaluate_split([0.9, 0.1], [True, True], [0.8, 0.6], [True, False])
    with pytest.raises(ValueError, match=r"nan at pair 1 .*, second;"):
        evaluate_split([0.9, 0.1], [1, 0], [0.8, math.nan], [1, 0], names=["first", "second"])


def test_comparison_has_the_whole_table_of_decisions():
    scores, same, folds = simulated(2000, separation=0.2)
    worse = scores + np.random.default_rng(1).normal(0, 0.1, len(scores))
    result = compare(evaluate(scores, same, folds), evaluate(worse, same, folds))
    cells = (result.both, result.only_first, result.only_second, result.neither)
    assert sum(cells) == 2000
    assert all(cells)
