"""Figures of the ROC curve; a rate is stated only where the number of pairs supports it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.checks import check_classes, check_scores
from tf_sphereface.utils.checks import check_number
from tf_sphereface.utils.optional import require

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""The false accept rates at which TAR is reported, where the impostor pairs suffice."""
IMPOSTORS_PER_FALSE_ACCEPT = 10  # with N impostor pairs no rate below 10 / N can be stated
"""Impostor pairs that a rate must let through at least, or its TAR is None."""
CONFIDENCE = 0.95


def curve_figures(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the fields of `VerificationResult` from `auc` to `threshold_at_far`, by name."""
    metrics = require("sklearn.metrics", extra="eval")
    fpr, tpr, cuts = metrics.roc_curve(same, scores, drop_intermediate=False)
    genuine = int(np.sum(same))
    impostors = len(same) - genuine
    rates: dict[float, float | None] = {}
    intervals: dict[float, tuple[float, float] | None] = {}
    reasons: dict[float, str] = {}
    thresholds: dict[float, float | None] = {}
    for far in FARS:
        rates[far] = intervals[far] = thresholds[far] = None
        reason = unsupported(far, impostors)
        if reason:
            reasons[far] = reason
            continue
        last = int(np.searchsorted(fpr, far * (1 + 1e-9), side="right")) - 1
        rates[far] = float(tpr[last])
        intervals[far] = clopper_pearson(round(tpr[last] * genuine), genuine)
        if np.isfinite(cuts[last]):
            thresholds[far] = float(cuts[last])
    return {
        "auc": float(metrics.auc(fpr, tpr)),
        "eer": equal_error_rate(fpr, tpr),
        "tar_at_far": rates,
        "tar_interval_at_far": intervals,
        "tar_at_far_reasons": reasons,
        "threshold_at_far": thresholds,
    }


def unsupported(far: float, impostors: int) -> str | None:
    """Say why a false accept rate cannot be stated with so many impostor pairs; None if it can."""
    check_number("far", far, 0.0, 1.0, open_low=True)
    needed = round(IMPOSTORS_PER_FALSE_ACCEPT / far)
    if impostors >= needed:
        return None
    return f"needs {needed:,} impostor pairs, there are {impostors:,}"


def equal_error_rate(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> float:
    """Return where false accepts equal false rejects, interpolated on a curve from (0, 0)."""
    excess = fpr - (1 - tpr)  # from -1 at (0, 0) up to 1 at (1, 1)
    at = int(np.argmax(excess >= 0))
    step = -excess[at - 1] / (excess[at] - excess[at - 1])
    return float(fpr[at - 1] + step * (fpr[at] - fpr[at - 1]))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return lower and upper limit of the exact two-sided 95 % interval of a binomial share.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
    """
    test = require("scipy.stats", extra="eval").binomtest(successes, trials)
    interval = test.proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


@dataclasses.dataclass(frozen=True)
class BootstrapIntervals:
    """Percentile intervals (low, high) of `bootstrap`, fractions.

    Attributes:
        auc: of the area under the ROC curve.
        eer: of the equal error rate.
        tar_at_far: false accept rate -> interval of the true accept rate, None where the impostor
            pairs are too few to state it.
        confidence: the share that the intervals are meant to hold.
        repeats: how many times the pairs were drawn.
    """

    auc: tuple[float, float]
    eer: tuple[float, float]
    tar_at_far: dict[float, tuple[float, float] | None]
    confidence: float
    repeats: int


def bootstrap(
    scores: ArrayLike,
    is_same: ArrayLike,
    *,
    repeats: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> BootstrapIntervals:
    """Draw genuine and impostor pairs again with replacement, and see how the curve varies.

    Each class is drawn by itself and keeps its size. The threshold for a false accept rate is
    chosen anew each time, so its uncertainty is in the interval; the Clopper-Pearson intervals of
    `evaluate` take it as given. Both take the pairs as independent, which pairs that share a person
    are not: true intervals are somewhat wider.

    Args:
        scores: (n,) finite, such as `VerificationResult.scores`.
        is_same: (n,) bool, both classes.
        repeats: how many times to draw, from 1.
        seed: the same seed gives the same intervals.
        confidence: between 0 and 1.

    Raises:
        ValueError: one of these does not hold.

    Example:

    >>> bootstrap([0.9, 0.8, 0.1, 0.2], [True, True, False, False], repeats=20).auc
    (1.0, 1.0)

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, the percentile interval.
    """
    if repeats < 1 or not 0 < confidence < 1:
        raise ValueError(
            "repeats must be at least 1 and confidence between 0 and 1. "
            f"Received: {repeats} and {confidence}"
        )
    same = check_classes(is_same)
    values = check_scores(scores, len(same), 1)[0]
    rng = np.random.default_rng(seed)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # last pair of each tie
    genuine = np.flatnonzero(same[order])
    impostor = np.flatnonzero(~same[order])
    fars = [far for far in FARS if unsupported(far, len(impostor)) is None]
    drawn = np.empty((repeats, 2 + len(fars)))
    for k in range(repeats):
        tpr = _rates(genuine, len(values), ends, rng)
        fpr = _rates(impostor, len(values), ends, rng)
        drawn[k, 0] = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
        drawn[k, 1] = equal_error_rate(fpr, tpr)
        last = np.searchsorted(fpr, np.array(fars) * (1 + 1e-9), side="right") - 1
        drawn[k, 2:] = tpr[last]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    by_far = dict(zip(fars, intervals[2:], strict=True))
    return BootstrapIntervals(
        auc=intervals[0],
        eer=intervals[1],
        tar_at_far={far: by_far.get(far) for far in FARS},
        confidence=confidence,
        repeats=repeats,
    )


def _rates(
    positions: NDArray[np.int64], total: int, ends: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a class again; return the share accepted down to the end of each tie, from 0 to 1."""
    picked = positions[rng.integers(0, len(positions), len(positions))]
    counts = np.cumsum(np.bincount(picked, minlength=total))[ends]
    return np.concatenate([[0.0], counts / len(positions)])
