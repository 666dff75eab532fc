"""Candidates for the largest scores: all whose score may be among them, given an error bound."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_GROUPS = 1024  # of scores, of which the maxima stand for all of them
_GROUP = 8  # scores of a group at least
_Float = TypeVar("_Float", np.float32, np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of a query and a row, (n,) each, in this order, and their scores.

    There are at least k rows of every query.
    """

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


Blocks = Iterable[tuple[int, NDArray[np.float32]]]


def top_candidates(
    parts: Sequence[Blocks],
    errors: NDArray[np.float32],
    k: int,
    most: int | None = None,
) -> Candidates | None:
    """Return every row whose true score may be among the k largest of a query.

    If the k-th largest of the scores seen is s, k true scores are s - e at least, so that a row
    with a score below s - 2 e cannot be among the k largest. The sum is rounded down.

    Args:
        parts: blocks of rows, each part read by a thread of its own. A block is its first row, and
            scores (q, rows) that differ from the true ones by `errors` at most; the next block may
            overwrite them. k rows in all at least.
        errors: (q,) what the scores may be wrong by.
        k: how many rows of a query are wanted.
        most: give up where more candidates than these are left; None never does.

    Returns:
        The candidates, or None where there are more than `most`.

    Example:

    >>> scores = np.array([[0.1, 0.9, 0.88, 0.3]], np.float32)
    >>> top_candidates([[(0, scores)]], np.array([0.02], np.float32), 1).rows.tolist()
    [1, 2]
    """
    sieve = _Sieve(errors, k, most)
    if len(parts) == 1:
        sieve.read(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(sieve.read, parts))
    return sieve.candidates()


def by_query(
    queries: NDArray[np.int64], values: NDArray[_Float], count: int, rest: float
) -> NDArray[_Float]:
    """Return the values of queries that ascend, a line each of `count`, filled up with `rest`."""
    if count == 1:
        return values[None]
    counts = np.bincount(queries, minlength=count)
    begins = np.cumsum(counts) - counts
    table = np.full((count, int(counts.max())), rest, values.dtype)
    table[queries, np.arange(len(queries)) - begins[queries]] = values
    return table


class _Sieve:
    """What threads have found so far: the k best scores of each query, and the candidates."""

    def __init__(self, errors: NDArray[np.float32], k: int, most: int | None) -> None:
        self._margins = 2 * errors + np.float32(4e-7)
        self._k, self._most = k, most
        self._best = np.empty((len(errors), 0), np.float32)
        self._limits: NDArray[np.float32] | None = None  # until k rows were seen
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self._count, self._room = 0, 4 * len(errors) * k + 65_536
        self._blocks = 0  # that had candidates
        self._many = False
        self._lock = threading.Lock()

    def read(self, blocks: Blocks) -> None:
        """Take the candidates among the rows of some blocks."""
        for begin, scores in blocks:
            if self._many:
                return
            self._take(begin, scores)

    def _take(self, begin: int, scores: NDArray[np.float32]) -> None:
        limits = self._limits
        if limits is None:
            limits = _kth_at_least(scores, self._k) - self._margins
        query, column, values = _at_least(scores, limits)
        if len(query) == 0:
            return
        with self._lock:
            more = by_query(query, values, len(scores), -np.inf)
            self._raise(np.concatenate([self._best, more], axis=1))
            if self._limits is not None:
                stays = (values >= self._limits[query]).nonzero()[0]
                query, column, values = query[stays], column[stays], values[stays]
            self._kept.append((query, begin + column, values))
            self._blocks += 1
            self._count += len(query)
            if self._count > self._room:
                self._kept = [self._above()]
                self._count = len(self._kept[0][0])
                self._room = max(self._room, 2 * self._count)
                self._many = self._most is not None and self._count > self._most

    def _raise(self, scores: NDArray[np.float32]) -> None:
        """Raise the limits to what the k largest of some scores (q, any number) leave."""
        self._best = _largest(scores, self._k)
        if self._best.shape[1] == self._k:
            self._limits = self._best.min(axis=1) - self._margins

    def _above(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Join the candidates, and leave out those below their query's limit."""
        if len(self._kept) == 1:
            return self._kept[0]
        query, rows, values = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        if self._limits is None:
            return query, rows, values
        stays = (values >= self._limits[query]).nonzero()[0]
        return query[stays], rows[stays], values[stays]

    def candidates(self) -> Candidates | None:
        """Return the candidates, or None where there are more than `most`."""
        if self._many:
            return None
        query, rows, values = self._above()
        if self._most is not None and len(rows) > self._most:
            return None
        if self._blocks > 1:  # the order is that in which they were read
            order = np.argsort(query * (rows.max() + 1) + rows)
            query, rows, values = query[order], rows[order], values[order]
        return Candidates(query, rows, values)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k largest of each line, in no order."""
    if scores.shape[1] <= k:
        return scores
    return np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]


def _kth_at_least(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return a number that the k-th largest of each line reaches; -inf where there are fewer.

    The k-th largest of the maxima of groups is one: it costs a pass over the scores, where the
    k-th largest itself costs several.
    """
    lines, length = scores.shape
    if length < k:
        return np.full(lines, -np.inf, np.float32)
    groups = min(length // _GROUP, max(_GROUPS, 4 * k))
    if groups >= 4 * k:
        size = length // groups
        scores = scores[:, : size * groups].reshape(lines, size, groups).max(axis=1)
    return _largest(scores, k).min(axis=1)


def _at_least(
    scores: NDArray[np.float32], limits: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return line, column and value of the scores that reach their line's limit."""
    flat = (scores >= limits[:, None]).ravel().nonzero()[0]
    line, column = np.divmod(flat, scores.shape[1])
    return line, column, scores.reshape(-1)[flat]
