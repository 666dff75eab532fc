"""Verification: K-fold accuracy and the curves of a list of scored pairs, or the curves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.angles import AngleDistribution, angle_distribution, is_cosine
from tf_sphereface.eval.measures.checks import check_classes, check_folds, check_scores
from tf_sphereface.eval.measures.curve import (
    FARS,
    IMPOSTORS_PER_FALSE_ACCEPT,
    BootstrapIntervals,
    bootstrap,
    curve_figures,
)
from tf_sphereface.eval.measures.hints import warn_of_scores
from tf_sphereface.eval.measures.significance import mcnemar_p, standard_error
from tf_sphereface.eval.measures.thresholds import (
    Search,
    best_midpoints,
    decided_rightly,
    threshold_search,
)
from tf_sphereface.utils.checks import error

__all__ = [
    "FARS",
    "IMPOSTORS_PER_FALSE_ACCEPT",
    "AngleDistribution",
    "BestOnTest",
    "BootstrapIntervals",
    "PairedComparison",
    "VerificationRates",
    "VerificationResult",
    "bootstrap",
    "compare",
    "evaluate",
    "evaluate_split",
]


def _none() -> NDArray[Any]:
    return np.zeros(0)


@dataclasses.dataclass(frozen=True)
class BestOnTest:
    """What the best threshold for these very pairs reaches: tuned on the test set, no result.

    Attributes:
        accuracy: correct / total, a fraction; no single threshold reaches more.
        threshold: the middle one of those that reach it; infinite where one answer for all pairs
            is best.
    """

    accuracy: float
    threshold: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VerificationRates:
    """What needs no folds: rates, areas and angles. Rates are fractions in [0, 1], not percent.

    Attributes:
        auc: area under the ROC curve.
        eer: the rate at which false accepts equal false rejects, interpolated on the ROC curve.
        tar_at_far: false accept rate -> true accept rate, None where impostor pairs are too few.
        tar_interval_at_far: false accept rate -> exact 95 % interval (Clopper-Pearson) of that
            rate at the threshold as it is; None likewise. What its choice adds, `bootstrap` tells.
        tar_at_far_reasons: false accept rate -> why its entry is None.
        threshold_at_far: false accept rate -> the lowest score that keeps to it on these very
            pairs (a pair is accepted from this score on), hence best on test; None likewise.
        genuine_angles: distribution of the genuine pairs' angles, None if scores are no cosines.
        impostor_angles: that of the impostor pairs, likewise.
        angular_fisher_score: of the embeddings behind the scores, None where only scores were
            given, or where it is not defined. Lower is better.
        scores: float64 (n,), each pair's score; with folds, as its own fold was tested.
        is_same: bool (n,).
        accuracy: None without folds, as no threshold was chosen on other pairs. The attributes
            after it are None likewise, or empty.
    """

    auc: float
    eer: float
    tar_at_far: dict[float, float | None]
    tar_interval_at_far: dict[float, tuple[float, float] | None]
    tar_at_far_reasons: dict[float, str]
    threshold_at_far: dict[float, float | None]
    genuine_angles: AngleDistribution | None
    impostor_angles: AngleDistribution | None
    angular_fisher_score: float | None
    scores: NDArray[np.float64]
    is_same: NDArray[np.bool_]
    accuracy: float | None = None
    std_error: float | None = None
    fold_accuracies: NDArray[np.float64] = dataclasses.field(default_factory=_none)
    thresholds: NDArray[np.float64] = dataclasses.field(default_factory=_none)
    fold_ids: NDArray[np.int64] = dataclasses.field(default_factory=_none)
    best_on_test: BestOnTest | None = None
    folds: NDArray[np.int64] | None = None
    correct: NDArray[np.bool_] | None = None

    @property
    def genuine_angle(self) -> float | None:
        """Mean angle of the genuine pairs in degrees, None if the scores are no cosines."""
        return None if self.genuine_angles is None else self.genuine_angles.mean

    @property
    def impostor_angle(self) -> float | None:
        """Mean angle of the impostor pairs in degrees, likewise."""
        return None if self.impostor_angles is None else self.impostor_angles.mean


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VerificationResult(VerificationRates):
    """What `evaluate` measured with folds: `VerificationRates`, and accuracies.

    Attributes:
        accuracy: mean of `fold_accuracies`.
        std_error: standard error of that mean, sd with n - 1 over the square root of the folds;
            of a single test part (`evaluate_split`) the binomial one, `sqrt(p (1 - p) / n)`.
        fold_accuracies: correct / total of each fold, in the order of `fold_ids`.
        thresholds: the score from which each fold's pairs were called one person, chosen on the
            other folds alone. Infinite where calling all pairs one person (or none) was best.
        fold_ids: the distinct fold numbers, ascending.
        best_on_test: accuracy and threshold tuned on these very pairs. Never a headline.
        folds: int (n,).
        correct: bool (n,), whether the pair was decided rightly under its fold's threshold.
    """

    accuracy: float
    std_error: float
    best_on_test: BestOnTest
    folds: NDArray[np.int64]
    correct: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """Two results on the same pairs, first minus second.

    Attributes:
        difference: mean over the folds of the difference in accuracy (a fraction).
        std_error: paired standard error of that mean over the folds.
        only_first: pairs that the first alone decided rightly.
        only_second: pairs that the second alone decided rightly.
        p_value: McNemar's exact two-sided p of that split.
        both: pairs that both decided rightly.
        neither: pairs that neither did.
    """

    difference: float
    std_error: float
    only_first: int
    only_second: int
    p_value: float
    both: int
    neither: int


@overload
def evaluate(
    scores: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike,
    *,
    search: Search = ...,
    names: Sequence[str] | None = ...,
    angular_fisher_score: float | None = ...,
) -> VerificationResult: ...


@overload
def evaluate(
    scores: ArrayLike,
    is_same: ArrayLike,
    folds: None = ...,
    *,
    search: Search = ...,
    names: Sequence[str] | None = ...,
    angular_fisher_score: float | None = ...,
) -> VerificationRates: ...


def evaluate(
    scores: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    search: Search = "exact",
    names: Sequence[str] | None = None,
    angular_fisher_score: float | None = None,
) -> VerificationRates:
    """Evaluate scored pairs by K-fold cross-validation of the threshold, and their ROC curve.

    Without folds only what needs none is measured: AUC, EER, true accept rates at false accept
    rates, angles. There is no accuracy then: it would be of a threshold tuned on these very pairs.

    For each fold the threshold that decides the other folds best is applied to it. Candidates are
    the midpoints between neighboring distinct scores; where several are equally good, their mean
    is taken (which need not be one of them). Calling all pairs one person, or none, is considered
    where it is strictly better than every midpoint. A score that equals the threshold counts as
    wrong, whichever the pair, as in the SphereFace authors' script.

    A `SphereFaceWarning` tells of scores that look like distances (the genuine pairs have the lower
    ones) and of cosines that are all close to 1.

    Args:
        scores: (n,) one number per pair, the higher the more alike: a cosine. Or (number of folds,
            n): row k holds all scores as they are when the k-th fold is tested, for protocols that
            learn something from the other folds (mean subtraction).
        is_same: (n,) bool, genuine or impostor.
        folds: (n,) an integer per pair, two folds at least; None for rates without accuracy.
        search: `"exact"`, or `"grid"` for the candidates -1, -0.9999, ... 1 of the authors' script.
        names: (n,) what to call each pair in an error.
        angular_fisher_score: kept in the result: what `angles.angular_fisher_score` gave for the
            embeddings, which are not seen here.

    Raises:
        ValueError: lengths differ; a score is NaN or infinite (the pair is named); there is one
            fold only; a class is missing, at all or outside some fold; `search` is given without
            folds, where no threshold is chosen.
        ImportError: the `eval` extra is not installed.

    Example:

    >>> result = evaluate([0.9, 0.1, 0.8, 0.2], [True, False, True, False], [1, 1, 2, 2])
    >>> result.accuracy, result.thresholds.tolist()
    (1.0, [0.5, 0.5])
    >>> rates = evaluate([0.9, 0.1, 0.8, 0.2], [True, False, True, False])
    >>> rates.accuracy, rates.auc
    (None, 1.0)
    """
    if folds is None:
        if search != "exact":
            raise error("search", "be left out without folds: no threshold is chosen", search)
        same = check_classes(is_same)
        values = check_scores(scores, len(same), 1, names)[0]
        rates = _rates(values, same, angular_fisher_score)
        return VerificationRates(scores=values, is_same=same, **rates)
    same, fold_of = check_folds(is_same, folds)
    fold_ids = np.unique(fold_of)
    rows = check_scores(scores, len(same), len(fold_ids), names)
    best = threshold_search(search, rows)

    thresholds = np.empty(len(fold_ids))
    accuracies = np.empty(len(fold_ids))
    own = np.empty(len(same))
    correct = np.empty(len(same), bool)
    order = np.argsort(rows[0], kind="stable")
    for k, fold in enumerate(fold_ids):
        if k and len(rows) > 1:
            order = np.argsort(rows[k], kind="stable")
        row = rows[k % len(rows)]
        others = order[fold_of[order] != fold]
        thresholds[k] = best(row[others], same[others])
        tested = np.flatnonzero(fold_of == fold)
        own[tested] = row[tested]
        correct[tested] = decided_rightly(row[tested], same[tested], thresholds[k])
        accuracies[k] = np.mean(correct[tested])
    return _result(
        own,
        same,
        fold_of,
        correct=correct,
        thresholds=thresholds,
        fold_accuracies=accuracies,
        std_error=standard_error(accuracies),
        angular_fisher_score=angular_fisher_score,
    )


def evaluate_split(
    train_scores: ArrayLike,
    train_is_same: ArrayLike,
    scores: ArrayLike,
    is_same: ArrayLike,
    *,
    search: Search = "exact",
    names: Sequence[str] | None = None,
    angular_fisher_score: float | None = None,
) -> VerificationResult:
    """Evaluate scored pairs with a threshold that was chosen on others: LFW's View 1.

    `train_scores` and `train_is_same`, (m,), are the pairs that choose the threshold. The other
    arguments, of the n pairs that are tested, and the errors are those of `evaluate`.

    Returns:
        A result with one fold, 1, and its threshold; all figures are of the tested pairs.

    Example:

    >>> evaluate_split([0.9, 0.1], [True, False], [0.8, 0.6], [True, False]).accuracy
    0.5
    """
    train_same = check_classes(train_is_same, "train_is_same")
    train = check_scores(train_scores, len(train_same), 1)[0]
    same = check_classes(is_same)
    tested = check_scores(scores, len(same), 1, names)[0]
    order = np.argsort(train, kind="stable")
    best = threshold_search(search, train)
    threshold = best(train[order], train_same[order])
    correct = decided_rightly(tested, same, threshold)
    accuracy = float(np.mean(correct))
    return _result(
        tested,
        same,
        np.ones(len(same), np.int64),
        correct=correct,
        thresholds=np.array([threshold]),
        fold_accuracies=np.array([accuracy]),
        std_error=float(np.sqrt(accuracy * (1 - accuracy) / len(same))),
        angular_fisher_score=angular_fisher_score,
    )


def compare(first: VerificationResult, second: VerificationResult) -> PairedComparison:
    """Compare two results on the same pairs in the same order and folds, each under its thresholds.

    Returns:
        The paired difference `first - second`, its standard error over the folds (NaN with one
        fold), and McNemar's exact test on the pairs that only one of them decided rightly.

    Raises:
        ValueError: the pairs differ.
        ImportError: the `eval` extra is not installed.

    Example:

    >>> same, folds = [True, False, True, False], [1, 1, 2, 2]
    >>> good = evaluate([0.9, 0.1, 0.8, 0.2], same, folds)
    >>> compare(good, good).p_value
    1.0
    """
    if not (len(first.fold_ids) and len(second.fold_ids)):
        raise ValueError("first and second must have folds. Received: rates without accuracy")
    if not (
        np.array_equal(first.is_same, second.is_same) and np.array_equal(first.folds, second.folds)
    ):
        raise ValueError(
            "first and second must come from the same pairs in the same order and folds. "
            f"Received: {len(first.is_same)} and {len(second.is_same)} pairs with different labels "
            "or folds"
        )
    differences = first.fold_accuracies - second.fold_accuracies
    only_first = int(np.sum(first.correct & ~second.correct))
    only_second = int(np.sum(second.correct & ~first.correct))
    return PairedComparison(
        difference=float(np.mean(differences)),
        std_error=standard_error(differences),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar_p(only_first, only_second),
        both=int(np.sum(first.correct & second.correct)),
        neither=int(np.sum(~first.correct & ~second.correct)),
    )


def _result(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    folds: NDArray[np.int64],
    *,
    fold_accuracies: NDArray[np.float64],
    angular_fisher_score: float | None,
    **figures: Any,
) -> VerificationResult:
    """Add the figures that need no folds."""
    order = np.argsort(scores, kind="stable")
    tied, right = best_midpoints(scores[order], same[order])
    return VerificationResult(
        accuracy=float(np.mean(fold_accuracies)),
        fold_accuracies=fold_accuracies,
        fold_ids=np.unique(folds),
        best_on_test=BestOnTest(right / len(scores), float(tied[len(tied) // 2])),
        scores=scores,
        is_same=same,
        folds=folds,
        **figures,
        **_rates(scores, same, angular_fisher_score),
    )


def _rates(
    scores: NDArray[np.float64], same: NDArray[np.bool_], angular_fisher_score: float | None
) -> dict[str, Any]:
    """Return the figures that need no folds, and warn where they are hardly what was meant."""
    warn_of_scores(scores, same)
    angles = is_cosine(scores)
    return {
        "genuine_angles": angle_distribution(scores[same]) if angles else None,
        "impostor_angles": angle_distribution(scores[~same]) if angles else None,
        "angular_fisher_score": angular_fisher_score,
        **curve_figures(scores, same),
    }
