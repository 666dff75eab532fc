"""Candidates for the largest scores: all whose score may be among them, given an error bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of a query and a row, (n,) each: at least k rows of every query."""

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]


def top_candidates(
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    errors: NDArray[np.float32],
    k: int,
    most: int | None = None,
) -> Candidates | None:
    """Return every row whose true score may be among the k largest of a query.

    If the k-th largest of the scores seen is s, k true scores are s - e at least, so that a row
    with a score below s - 2 e cannot be among the k largest. The sum is rounded down.

    Args:
        blocks: first row, and scores (q, rows) that differ from the true ones by `errors` at most;
            k rows in all at least.
        errors: (q,) what the scores may be wrong by.
        k: how many rows of a query are wanted.
        most: give up where more candidates than these are left; None never does.

    Returns:
        The candidates, or None where there are more than `most`.

    Example:

    >>> scores = np.array([[0.1, 0.9, 0.88, 0.3]], np.float32)
    >>> top_candidates([(0, scores)], np.array([0.02], np.float32), 1).rows.tolist()
    [1, 2]
    """
    margins = 2 * errors + np.float32(4e-7)
    best = np.full((len(errors), k), -np.inf, np.float32)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    count = 0
    for begin, scores in blocks:
        limits = best.min(axis=1) - margins
        begun = not np.isneginf(limits).any()
        if not begun:  # fewer than k so far
            best = _largest(np.concatenate([best, scores], axis=1), k)
            limits = best.min(axis=1) - margins
        query, column, values = _at_least(scores, limits)
        if len(query) == 0:
            continue
        if begun:
            best = _merged(best, query, values, k)
        stays = values >= (best.min(axis=1) - margins)[query]
        kept.append((query[stays], begin + column[stays], values[stays]))
        count += int(stays.sum())
        if count > 4 * len(errors) * k + 65_536:
            kept = [_above(kept, best.min(axis=1) - margins)]
            count = len(kept[0][0])
            if most is not None and count > most:
                return None
    query, rows, _ = _above(kept, best.min(axis=1) - margins)
    return None if most is not None and len(rows) > most else Candidates(query, rows)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k largest of each line, in no order."""
    if scores.shape[1] <= k:
        return scores
    return np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]


def _at_least(
    scores: NDArray[np.float32], limits: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return line, column and value of the scores that reach their line's limit."""
    flat = np.flatnonzero(scores >= limits[:, None])
    line, column = np.divmod(flat, scores.shape[1])
    return line, column, scores[line, column]


def _merged(
    best: NDArray[np.float32],
    query: NDArray[np.int64],
    values: NDArray[np.float32],
    k: int,
) -> NDArray[np.float32]:
    """Return the k largest of `best` (q, k) and of further values, whose queries ascend."""
    counts = np.bincount(query, minlength=len(best))
    begins = np.cumsum(counts) - counts
    more = np.full((len(best), int(counts.max())), -np.inf, np.float32)
    more[query, np.arange(len(query)) - begins[query]] = values
    return _largest(np.concatenate([best, more], axis=1), k)


def _above(
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
    limits: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Join candidates, and leave out those below their query's limit."""
    query, rows, values = (np.concatenate(column) for column in zip(*kept, strict=True))
    stays = values >= limits[query]
    return query[stays], rows[stays], values[stays]
