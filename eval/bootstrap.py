"""Intervals of the curve's figures by drawing the pairs again."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval._checks import check_classes, check_labels, check_scores
from tf_sphereface.eval._curve import CONFIDENCE, FARS, equal_error_rate, unsupported


@dataclasses.dataclass(frozen=True)
class BootstrapIntervals:
    """Percentile intervals (low, high) of `bootstrap`, fractions.

    Attributes:
        auc: of the area under the ROC curve.
        eer: of the equal error rate.
        tar_at_far: false accept rate -> interval of the true accept rate, None where the impostor
            pairs are too few to state the rate at all.
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
        is_same: (n,) bool.
        repeats: how many times to draw.
        seed: the same seed gives the same intervals.
        confidence: between 0 and 1.

    Returns:
        Percentile intervals.

    Raises:
        ValueError: as for `evaluate`, or `repeats` or `confidence` is out of range.

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
    same, folds = check_labels(is_same, np.ones(np.shape(is_same), np.int64))
    check_classes(same)
    values = check_scores(scores, len(folds), 1)[0]
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
