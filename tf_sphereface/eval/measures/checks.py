"""Checks of scored pairs and of labeled embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.thresholds import SEARCHES
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.optional import require


def as_labels(is_same: ArrayLike, argument: str = "is_same") -> NDArray[np.bool_]:
    """Return labels as bool (n,), or raise a ValueError."""
    same = np.asarray(is_same)
    if same.ndim != 1:
        raise ValueError(f"{argument} must be one-dimensional. Received: the shape {same.shape}")
    if same.dtype != bool and not np.all((same == 0) | (same == 1)):
        raise ValueError(f"{argument} must be True or False. Received: {np.unique(same)[:5]}")
    return same.astype(bool)


def check_classes(is_same: ArrayLike, argument: str = "is_same") -> NDArray[np.bool_]:
    """Return labels as bool (n,), or raise a ValueError unless both classes are there."""
    same = as_labels(is_same, argument)
    genuine = int(np.sum(same))
    if genuine in (0, len(same)):
        raise ValueError(
            f"{argument} must hold genuine and impostor pairs. "
            f"Received: {genuine} genuine and {len(same) - genuine} impostor pairs"
        )
    return same


def check_folds(
    is_same: ArrayLike, folds: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return labels as bool and folds as int64, (n,); each fold leaves both classes outside it."""
    fold_of = np.asarray(folds)
    if np.ndim(is_same) != 1 or fold_of.shape != np.shape(is_same):
        raise ValueError(
            "is_same and folds must be one-dimensional and of one length. "
            f"Received: shapes {np.shape(is_same)} and {fold_of.shape}"
        )
    if fold_of.dtype.kind not in "iu":
        raise ValueError(f"folds must be integers. Received: dtype {fold_of.dtype}")
    same, fold_of = check_classes(is_same), fold_of.astype(np.int64)
    fold_ids = np.unique(fold_of)
    if len(fold_ids) < 2:
        raise ValueError(
            "folds must name two folds at least: a threshold is chosen on the others. Leave folds "
            f"out for rates without accuracy. Received: fold {fold_ids[0]} only"
        )
    for fold in fold_ids:
        others = same[fold_of != fold]
        if np.all(others) or not np.any(others):
            kind = "genuine" if np.all(others) else "impostor"
            raise ValueError(
                f"folds must leave both classes outside each fold. Received: all {len(others)} "
                f"pairs outside fold {fold} are {kind}"
            )
    return same, fold_of


def require_libraries() -> None:
    """Raise an ImportError that names the extra, unless what the figures need is installed."""
    for library in ("sklearn.metrics", "scipy.stats"):
        require(library, extra="eval")


def check_protocol(is_same: ArrayLike, folds: ArrayLike, search: str) -> None:
    """Raise now what `verification.evaluate` would refuse once all images are embedded."""
    require_libraries()
    check_folds(is_same, folds)
    check_choice("search", search, tuple(SEARCHES))


def check_scores(
    scores: ArrayLike, pairs: int, folds: int, names: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Return finite scores as float64 (1, pairs) or (folds, pairs); an error names the pair."""
    values = np.asarray(scores, np.float64)
    if values.shape not in ((pairs,), (folds, pairs)):
        raise ValueError(
            f"scores must have the shape ({pairs},), or ({folds}, {pairs}) for one row per fold, "
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


def check_named(labels: ArrayLike) -> NDArray[np.generic]:
    """Return labels as an array, or raise a ValueError where somebody has none (None or NaN).

    NaN are what pandas makes of gaps, and NumPy takes all of them for one person.
    """
    names = np.asarray(labels)
    given = names if isinstance(labels, np.ndarray) else np.array(labels, object)
    missing = [i for i, name in enumerate(given.ravel()) if name is None or name != name]
    if missing:
        raise ValueError(
            f"labels must name everybody. Received: none in row {missing[0]} (counted from 0)"
            + (f", and in {len(missing) - 1} others" if len(missing) > 1 else "")
        )
    return names


def check_rows(
    vectors: NDArray[np.floating], labels: ArrayLike, argument: str
) -> NDArray[np.generic]:
    """Return the labels as an array, or raise a ValueError unless each vector has one."""
    names = check_named(labels)
    if vectors.ndim != 2 or names.shape != vectors.shape[:1] or not len(names):
        raise ValueError(
            f"{argument} must have the shape (n, d), n at least 1, and labels (n,). "
            f"Received: {vectors.shape} and {names.shape}"
        )
    return names


def check_width(probes: NDArray[np.floating], other: NDArray[np.floating], argument: str) -> None:
    """Raise a ValueError unless `other` holds embeddings as long as the probes'."""
    if other.ndim != 2 or other.shape[1] != probes.shape[1] or not len(other):
        raise ValueError(
            f"{argument} must have the shape (m, {probes.shape[1]}), m at least 1. "
            f"Received: {other.shape}"
        )
