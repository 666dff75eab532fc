"""Figures of the ROC curve, each rate only as far as the number of pairs supports it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface._extras import require

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
IMPOSTORS_PER_FALSE_ACCEPT = 10  # with N impostor pairs no rate below 10 / N can be stated
CONFIDENCE = 0.95


def curve_figures(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> dict[str, Any]:
    """Return AUC, EER and TAR at FAR with its interval, from scikit-learn's ROC curve.

    Args:
        scores: float64 (n,), finite.
        same: bool (n,), both classes.

    Returns:
        The fields of `VerificationResult` from `auc` to `threshold_at_far`, by name.
    """
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


def clopper_pearson(
    successes: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the exact two-sided interval of a binomial share.

    Args:
        successes: how many of the trials succeeded.
        trials: one at least.
        confidence: the share of such intervals that hold the true value, at least.

    Returns:
        Lower and upper limit.

    Raises:
        ImportError: the `eval` extra is not installed.

    Example:

    >>> [round(limit, 4) for limit in clopper_pearson(95, 100)]
    [0.8872, 0.9836]

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
    """
    test = require("scipy.stats", extra="eval").binomtest(successes, trials)
    interval = test.proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)
