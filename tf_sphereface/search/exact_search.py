"""Exact nearest neighbors by cosine, in blocks, from candidates in float32 or int8."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.search.candidates import Candidates, by_query, top_candidates
from tf_sphereface.search.int8_products import Int8Products, int8_is_available
from tf_sphereface.utils.checks import check_choice, check_integer, error

Precision = Literal["auto", "float32", "int8"]
BATCH = 256  # queries at once
_WITH_MIRROR = (
    ". If they are joined with those of the mirror images: "
    "eval.scoring.verification_vectors(embedder, faces, embedder.metadata.flip) makes them so"
)
_BLOCK = 16_384  # rows at once in int8
_PRODUCTS = 2**29  # of two bytes, for which a thread more pays
_READING = 20  # products that take the time in which a byte is read
_SCORES = 2**22  # float32 cosines at once
_RANKED = 2**15  # numbers of the rows of which the cosine is computed again at once
_FEW = 32  # queries, up to which a product by pieces of the rows is faster than one at once
_CACHED = 2**20  # float32 numbers of such a piece
_ROUNDING = 2.0**-24  # of one float32 operation, relative
_INT8_FROM = 2**24  # numbers, below which one product in float32 is as fast
_INT8_AFTER = 256  # queries, before which rounding the rows to int8 costs more than it saves


class ExactSearch:
    """The rows of a matrix with the largest cosines to a query, exactly.

    Candidates come from products in float32, or in int8 where that is faster; both leave out only
    what their error bound excludes. The cosines of the candidates are then computed anew, in
    float64: answers do not depend on the size of a batch, nor on the precision of the candidates.

    Args:
        vectors: (n, d), n from 0; scaled to unit length. float32 rows that have it already are used
            where they are, without a copy.
        precision: of the candidates: `"float32"`, `"int8"` (a quarter of the bytes in addition;
            needs the extra `export`), or `"auto"`: int8 from 32,768 rows of 512 numbers and 256
            queries on, where ONNX Runtime is installed.

    Raises:
        ValueError: the shape is another, or a row is zero or not finite (named).
        ImportError: `"int8"` without the extra.

    Example:

    >>> search = ExactSearch(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))
    >>> rows, cosines = search([[2.0, 1.9]], k=2)
    >>> rows.tolist(), cosines.round(3).tolist()
    ([[2, 0]], [[1.0, 0.725]])
    """

    def __init__(self, vectors: ArrayLike, precision: Precision = "auto") -> None:
        check_choice("precision", precision, ("auto", "float32", "int8"))
        self.vectors = unit_rows(vectors)
        self.vectors.setflags(write=False)
        self._later = (
            precision == "auto" and self.vectors.size >= _INT8_FROM and int8_is_available()
        )
        self._asked, self._lock = 0, threading.Lock()
        self._int8 = Int8Products(self.vectors, _BLOCK) if precision == "int8" else None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Length of a row."""
        return int(self.vectors.shape[1])

    def __call__(
        self, queries: ArrayLike, k: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the nearest rows of each query, the nearest first.

        Args:
            queries: (q, d) of any length but zero, finite; q may be 0.
            k: how many rows, from 1; all of them where there are fewer.

        Returns:
            Row numbers int64 and cosines float64, both (q, min(k, n)). Of equal cosines the lower
            row comes first. A query that is zero or not finite has rows -1 and cosines NaN.

        Raises:
            ValueError: another length of the queries, or k below 1.
        """
        k = min(check_integer("k", k, 1), len(self.vectors))
        matrix = self.check_queries(queries)
        unit, usable = _unit_or_zero(matrix)
        places = usable.nonzero()[0] if k else np.zeros(0, np.int64)
        self._count(len(places))
        if 0 < len(matrix) == len(places) <= BATCH:
            return self._search(unit, k)
        rows = np.full((len(matrix), k), -1, np.int64)
        cosines = np.full((len(matrix), k), np.nan)
        for begin in range(0, len(places), BATCH):
            part = places[begin : begin + BATCH]
            rows[part], cosines[part] = self._search(unit[part], k)
        return rows, cosines

    def _count(self, queries: int) -> None:
        """Note how many queries there were, and turn to int8 where it begins to pay."""
        with self._lock:
            self._asked += queries
            if self._later and self._int8 is None and self._asked >= _INT8_AFTER:
                self._int8 = Int8Products(self.vectors, _BLOCK)

    @property
    def precision(self) -> Literal["float32", "int8"]:
        """What the candidates come from now."""
        return "float32" if self._int8 is None else "int8"

    def check_queries(self, queries: ArrayLike) -> NDArray[np.floating]:
        """Return queries as (q, d), or raise ValueError where they have another length."""
        matrix = np.asarray(queries)
        if matrix.dtype.kind not in "fiu":
            raise error("queries", "be numbers", matrix.dtype)
        if matrix.ndim != 2 or matrix.shape[1] != self.dim:
            half = matrix.ndim == 2 and 2 * matrix.shape[1] == self.dim
            raise ValueError(
                f"Argument `queries` must have the shape (q, {self.dim}), as the vectors that are "
                f"searched are {self.dim} long. Received: shape {matrix.shape}"
                + (_WITH_MIRROR if half else "")
            )
        return matrix

    def _search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rows and cosines (q, k) of unit queries."""
        candidates: Candidates | None = None
        if self._int8 is not None:
            parts, errors, scales = self._int8.score(queries, self._threads(len(queries)))
            # Past this many, ranking them again costs more than the product in float32.
            most = max(4 * k, len(self.vectors) // 16) * len(queries)
            candidates = top_candidates(parts, errors, k, most)
            if candidates is not None:
                candidates = self._narrowed(queries, candidates, k, errors, scales)
        if candidates is None:
            errors = np.full(len(queries), self._rounding, np.float32)
            candidates = top_candidates([self._blocks(queries)], errors, k)
        if candidates is None:
            raise RuntimeError("a search without a limit has none to pass")
        return _ranked(self.vectors, queries, candidates, k)

    def _narrowed(
        self,
        queries: NDArray[np.float32],
        found: Candidates,
        k: int,
        errors: NDArray[np.float32],
        scales: NDArray[np.float32],
    ) -> Candidates:
        """Leave out int8 candidates that products in float32 exclude.

        The k rows with the best scores are multiplied first: what their cosines exceed by more than
        the error of a score is out, which is half of the distance that scores alone must keep.
        """
        ends = found.queries.searchsorted(np.arange(len(queries) + 1))
        kept, cosines = [], []
        for query, begin, end, slack, scale in zip(
            queries, ends[:-1], ends[1:], errors, scales, strict=True
        ):
            rows, scores = found.rows[begin:end], found.scores[begin:end]
            best = np.argpartition(scores, len(rows) - k)[len(rows) - k :]
            least = self._products(rows[best], query).min() - self._rounding
            rows = rows[scores >= least / scale - slack]
            values = self._products(rows, query)
            kth = np.partition(values, len(rows) - k)[len(rows) - k]
            stays = values >= kth - 2 * self._rounding
            kept.append(rows[stays])
            cosines.append(values[stays])
        counts = [len(rows) for rows in kept]
        return Candidates(
            np.arange(len(queries)).repeat(counts), np.concatenate(kept), np.concatenate(cosines)
        )

    def _products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the products of some rows (n,) and a query, without a thread of OpenBLAS.

        Its threads wait busily for 0.1 s, on the cores that the next int8 product needs.
        """
        return np.einsum("nd,d->n", self.vectors.take(rows, axis=0), query)

    def _threads(self, queries: int) -> int:
        """Return how many threads pay for some queries."""
        products = (queries + _READING) * self.vectors.size
        return min(max(products // _PRODUCTS, 1), os.cpu_count() or 1)

    @property
    def _rounding(self) -> float:
        """Bound of the error of a float32 product of two unit vectors.

        Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, equation 3.5.
        """
        return (self.dim + 4) * _ROUNDING * 1.01

    def _blocks(self, queries: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first row of a block, and the cosines (q, rows) of its rows."""
        size = min(max(_SCORES // len(queries), 1), len(self.vectors))
        scores = np.empty(0 if len(queries) == 1 else size * len(queries), np.float32)
        for begin in range(0, len(self.vectors), size):
            part = self.vectors[begin : begin + size]
            if len(queries) == 1:  # a product with a vector reads the rows once
                yield begin, (part @ queries[0])[None]
                continue
            place = scores[: len(queries) * len(part)].reshape(len(queries), len(part))
            yield begin, _multiply(queries, part, place)


def _multiply(
    queries: NDArray[np.float32], rows: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Write the products (q, n) of two or more queries and rows to `scores`, and return it."""
    count, dim = queries.shape
    if count > min(_FEW, dim // 8):
        return np.matmul(queries, rows.T, out=scores)
    # Twice as fast as the other way round: OpenBLAS does not pack rows that its cache holds.
    step = max(_CACHED // dim, 1)
    for begin in range(0, len(rows), step):
        scores[:, begin : begin + step] = (rows[begin : begin + step] @ queries.T).T
    return scores


def unit_rows(vectors: ArrayLike) -> NDArray[np.float32]:
    """Return rows at unit length, float32 (n, d); those that have it already are not copied.

    Raises:
        ValueError: the shape is another, or a row is zero or not finite (named).
    """
    matrix = np.asarray(vectors)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or matrix.dtype.kind not in "fiu":
        raise ValueError(
            "Argument `vectors` must be numbers of the shape (n, d), d at least 1. "
            f"Received: {matrix.dtype} {matrix.shape}"
        )
    copy: NDArray[np.float32] | None = None
    for begin in range(0, len(matrix), _BLOCK):
        part = matrix[begin : begin + _BLOCK]
        if copy is None and part.dtype == np.float32:
            with np.errstate(over="ignore"):
                squares = np.einsum("nd,nd->n", part, part)
            if np.abs(squares - 1).max() <= 1e-6:
                continue
        unit, usable = _unit_or_zero(part)
        if not usable.all():
            row = begin + int(np.argmin(usable))
            raise ValueError(
                "Argument `vectors` must have rows that are finite and not zero. "
                f"Received: row {row} (counted from 0) is not"
            )
        if copy is None:
            copy = np.empty(matrix.shape, np.float32)
            copy[:begin] = matrix[:begin]
        copy[begin : begin + len(part)] = unit
    return np.ascontiguousarray(matrix, np.float32).view() if copy is None else copy


def _unit_or_zero(matrix: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return rows at unit length, float32, and which rows have a direction; the others are 0."""
    values = np.asarray(matrix, np.float64)
    squares = np.einsum("nd,nd->n", values, values)
    usable = (squares > 1e-200) & (squares < 1e200)
    if not usable.all():  # scaled first, where squares overflow or vanish
        with np.errstate(invalid="ignore"):
            largest = np.abs(values).max(axis=1, initial=0.0)
            scale = np.where(usable, 1.0, largest)
            usable = np.isfinite(largest) & (largest > 0)
            values = np.where(usable[:, None], values / np.where(usable, scale, 1.0)[:, None], 0.0)
            squares = np.where(usable, np.einsum("nd,nd->n", values, values), 1.0)
    return (values * (1 / np.sqrt(squares))[:, None]).astype(np.float32), usable


def _ranked(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], found: Candidates, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rank candidates by cosines in float64; return the best rows (q, k) and their cosines."""
    exact = np.empty(len(found.rows))
    wide = queries.astype(np.float64)
    step = max(_RANKED // vectors.shape[1], 1)
    for begin in range(0, len(exact), step):
        part = slice(begin, begin + step)
        rows = vectors.take(found.rows[part], axis=0).astype(np.float64)
        np.einsum("nd,nd->n", wide.take(found.queries[part], axis=0), rows, out=exact[part])
    exact = exact.clip(-1.0, 1.0)
    # Stable sorts: of equal cosines the lower row comes first, as in `found`.
    begins = found.queries.searchsorted(np.arange(len(queries) + 1))
    if len(queries) == 1 or len(queries) * np.diff(begins).max() <= 2 * len(exact):
        order = by_query(found.queries, -exact, len(queries), np.inf).argsort(kind="stable")
        best = begins[:-1, None] + order[:, :k]
    else:
        best = np.lexsort((-exact, found.queries))[begins[:-1, None] + np.arange(k)]
    return found.rows[best], exact[best]
