"""Searches for the threshold that decides given pairs best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_choice

Search = Literal["exact", "grid"]


def best_exact(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Return the mean of `best_midpoints`."""
    return float(np.mean(best_midpoints(scores, same)[0]))


def best_midpoints(
    scores: NDArray[np.float64], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int]:
    """Return the equally good best midpoints, and how many pairs they decide rightly.

    `scores` and midpoints ascend. One infinite threshold stands where one answer for all pairs is
    strictly better than every midpoint.
    """
    genuine = int(np.sum(same))
    below = np.cumsum(same)  # genuine pairs up to each position
    correct = genuine - below + np.arange(1, len(same) + 1) - below
    gaps = np.flatnonzero(scores[:-1] < scores[1:])
    best = int(np.max(correct[gaps], initial=-1))
    constant = max(genuine, len(same) - genuine)
    if constant > best:
        answer = -np.inf if genuine >= len(same) - genuine else np.inf
        return np.array([answer]), constant
    at = gaps[correct[gaps] == best]
    return (scores[at] + scores[at + 1]) / 2, best


def best_on_grid(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Return the mean of the best of -1, -0.9999, ... 1; `scores` ascend."""
    grid = np.arange(-10_000, 10_001) / 10_000
    genuine, impostor = scores[same], scores[~same]
    accepted = len(genuine) - np.searchsorted(genuine, grid, side="right")
    correct = accepted + np.searchsorted(impostor, grid, side="left")
    return float(np.mean(grid[correct == np.max(correct)]))


SEARCHES: dict[str, Callable[[NDArray[np.float64], NDArray[np.bool_]], float]] = {
    "exact": best_exact,
    "grid": best_on_grid,
}


def threshold_search(
    search: str, scores: NDArray[np.float64]
) -> Callable[[NDArray[np.float64], NDArray[np.bool_]], float]:
    """Return how a threshold is chosen on these scores; ValueError where it cannot be."""
    best = SEARCHES[check_choice("search", search, tuple(SEARCHES))]
    if search == "grid" and np.max(np.abs(scores), initial=0.0) > 1 + 1e-6:
        raise ValueError(
            'search="grid" tries thresholds from -1 to 1: it is for cosines. Received: scores from '
            f"{np.min(scores):.4g} to {np.max(scores):.4g}"
        )
    return best


def decided_rightly(
    scores: NDArray[np.float64], same: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Tell of each pair whether the threshold decides it; a score right on it is wrong."""
    return np.asarray(np.where(same, scores > threshold, scores < threshold), bool)
