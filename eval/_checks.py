"""What scored pairs must be like before anything is measured on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface._extras import require
from tf_sphereface.eval._thresholds import search_named


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
