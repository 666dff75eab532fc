"""The threshold that decides given pairs best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.utils.optional import require

Search = Callable[[NDArray[np.float64], NDArray[np.bool_]], float]


def best_exact(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Return the mean of the best midpoints of neighbouring scores; `scores` ascend.

    Infinite where one answer for all pairs is strictly better than every midpoint.
    """
    tied, _ = best_midpoints(scores, same)
    return float(np.mean(tied))


def best_midpoints(
    scores: NDArray[np.float64], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int]:
    """Return the equally good best thresholds, and how many pairs they decide rightly.

    Args:
        scores: float64 (n,), ascending.
        same: bool (n,), in that order.

    Returns:
        The best midpoints, ascending; or one infinite threshold where one answer for all pairs is
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


SEARCHES: dict[str, Search] = {"exact": best_exact, "grid": best_on_grid}


def search_named(name: str) -> Search:
    """Return the search of that name, or raise a ValueError."""
    if name not in SEARCHES:
        raise ValueError(f'search must be "exact" or "grid". Received: {name!r}')
    return SEARCHES[name]


def decided_rightly(
    scores: NDArray[np.float64], same: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Tell of each pair whether the threshold decides it; a score right on it is wrong."""
    return np.asarray(np.where(same, scores > threshold, scores < threshold), bool)


def check_labels(
    is_same: ArrayLike, folds: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return labels as bool and folds as int64, (n,) each, or raise a ValueError."""
    same, fold_of = np.asarray(is_same), np.asarray(folds)
    if same.ndim != 1 or fold_of.shape != same.shape:
        raise ValueError(
            "is_same and folds must be one-dimensional and of one length. "
            f"Received: shapes {same.shape} and {fold_of.shape}"
        )
    if same.dtype != bool and not np.all((same == 0) | (same == 1)):
        raise ValueError(f"is_same must be True or False. Received: {np.unique(same)[:5]}")
    if fold_of.dtype.kind not in "iu":
        raise ValueError(f"folds must be integers. Received: dtype {fold_of.dtype}")
    return same.astype(bool), fold_of.astype(np.int64)


def check_classes(same: NDArray[np.bool_], argument: str = "is_same") -> None:
    """Raise a ValueError unless there are genuine and impostor pairs."""
    genuine = int(np.sum(same))
    if genuine in (0, len(same)):
        raise ValueError(
            f"{argument} must hold genuine and impostor pairs. "
            f"Received: {genuine} genuine and {len(same) - genuine} impostor pairs"
        )


def check_folds(
    same: NDArray[np.bool_], fold_of: NDArray[np.int64], fold_ids: NDArray[np.int64]
) -> None:
    """Raise a ValueError unless every fold leaves both classes to choose its threshold on."""
    check_classes(same)
    if len(fold_ids) < 2:
        raise ValueError(
            "folds must name two folds at least: a threshold is chosen on the others. "
            f"Received: fold {fold_ids[0]} only"
        )
    for fold in fold_ids:
        others = same[fold_of != fold]
        if np.all(others) or not np.any(others):
            kind = "genuine" if np.all(others) else "impostor"
            raise ValueError(
                f"folds must leave both classes outside each fold. Received: all {len(others)} "
                f"pairs outside fold {fold} are {kind}"
            )


def check_pairs(is_same: ArrayLike, folds: ArrayLike, search: str) -> None:
    """Raise now what `verification.evaluate` would refuse once all is embedded."""
    for library in ("sklearn.metrics", "scipy.stats"):
        require(library, extra="eval")
    same, fold_of = check_labels(is_same, folds)
    check_folds(same, fold_of, np.unique(fold_of))
    search_named(search)


def check_scores(
    scores: ArrayLike, pairs: int, folds: int, names: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Return the scores as float64 (1, pairs) or (folds, pairs).

    Raises:
        ValueError: another shape, or a score that is not finite; its pair is named.
    """
    values = np.asarray(scores, np.float64)
    if values.shape not in ((pairs,), (folds, pairs)):
        raise ValueError(
            f"scores must have the shape ({pairs},), or ({folds}, {pairs}) for one row a fold, "
            f"as is_same and folds say. Received: {values.shape}"
        )
    if names is not None and len(names) != pairs:
        raise ValueError(f"names must name all {pairs} pairs. Received: {len(names)} names")
    values = np.atleast_2d(values)
    if not np.all(np.isfinite(values)):
        bad = np.argwhere(~np.isfinite(values))
        row, pair = bad[0]
        name = f", {names[pair]}" if names is not None else ""
        raise ValueError(
            f"scores must be finite. Received: {values[row, pair]} at pair {pair} "
            f"(counted from 0){name}; {len(np.unique(bad[:, 1]))} such pairs in all"
        )
    return values
