"""Approximate nearest neighbors by usearch's graph, with its recall against the exact answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.search.exact_search import ExactSearch
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.optional import require


class ApproximateSearch:
    """A graph (HNSW) over the rows of a matrix: fast past a million, and sometimes wrong.

    How often is measured: see `recall`. The nearest rows that the graph finds are ranked again
    exactly, so that the cosines are those of `ExactSearch`.

    Args:
        vectors: as for `ExactSearch`.
        connectivity: neighbors of a row in the graph; more is surer, larger and slower.
        expansion: rows that a search keeps in view, likewise.

    Raises:
        ValueError: as for `ExactSearch`, or a number below 1.
        ImportError: usearch is missing (the extra `search`).

    Example:

    >>> search = ApproximateSearch(np.eye(8))
    >>> search([[0.0, 2.0, 0, 0, 0, 0, 0, 0]])[0].tolist(), search.recall(np.eye(8))
    ([[1]], 1.0)

    Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
    hierarchical navigable small world graphs", TPAMI 2020.
    """

    def __init__(self, vectors: ArrayLike, connectivity: int = 32, expansion: int = 256) -> None:
        index = require("usearch.index", extra="search")
        self._exact = ExactSearch(vectors, "float32")
        self.expansion = check_integer("expansion", expansion, 1)
        self._graph: Any = index.Index(
            ndim=self._exact.dim,
            metric="ip",
            dtype="f32",
            connectivity=check_integer("connectivity", connectivity, 2),
            expansion_add=self.expansion,
            expansion_search=self.expansion,
        )
        if len(self._exact):
            self._graph.add(np.arange(len(self._exact)), self._exact.vectors)

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The rows at unit length."""
        return self._exact.vectors

    def __call__(
        self, queries: ArrayLike, k: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rows and cosines of the nearest rows that are found, as `ExactSearch` does.

        Places for which nothing was found have row -1 and cosine NaN.
        """
        k = min(check_integer("k", k, 1), len(self))
        matrix = np.asarray(self._exact.check_queries(queries), np.float32)
        rows = np.full((len(matrix), k), -1, np.int64)
        cosines = np.full((len(matrix), k), np.nan)
        norms = np.linalg.norm(np.float64(matrix), axis=1)
        usable = np.flatnonzero(np.isfinite(norms) & (norms > 0))
        if not k or not len(usable):
            return rows, cosines
        unit = np.float64(matrix[usable]) / norms[usable, None]
        found = self._graph.search(unit.astype(np.float32), min(len(self), k + 8))
        keys = np.atleast_2d(np.asarray(found.keys)).astype(np.int64)
        counts = np.atleast_1d(np.asarray(getattr(found, "counts", len(found))))
        for at, near, count, query in zip(usable, keys, counts, unit, strict=True):
            near = near[:count]
            exact = np.float64(self.vectors[near]) @ query
            order = np.lexsort((near, -exact))[:k]
            rows[at, : len(order)] = near[order]
            cosines[at, : len(order)] = np.clip(exact[order], -1.0, 1.0)
        return rows, cosines

    def recall(self, queries: ArrayLike, k: int = 1) -> float:
        """Return which share of the k nearest rows of some queries is found, 0 to 1."""
        exact, found = self._exact(queries, k)[0], self(queries, k)[0]
        right = [len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]
        return float(np.sum(right) / max(exact.size, 1))
