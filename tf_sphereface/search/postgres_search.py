"""Approximate nearest neighbors by pgvector's graph on the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.approximate_search import ApproximateSearch
from tf_sphereface.search.exact_search import ExactSearch
from tf_sphereface.search.postgres_store import PostgresStore

_LARGEST = 2_000  # numbers in a vector that pgvector's graph takes
_EXPANSION = 256  # people that a search keeps in view
_MOST = 1_000  # the largest that pgvector allows


class PostgresSearch(ApproximateSearch):
    """pgvector's graph (HNSW) over a gallery's templates, kept on the server.

    It is built once for all processes, and kept when people come and go, where `ApproximateSearch`
    builds its own each time. The nearest people that it finds are ranked again exactly.

    Args:
        store: of the gallery; its server's templates are brought up to date, which needs the right
            to write where they are not.
        templates: (people, d), of unit length.
        names: (people,).

    Raises:
        ValueError: the templates are longer than 2,000.
        OSError: the server cannot be reached, or refuses it.
    """

    def __init__(
        self, store: PostgresStore, templates: NDArray[np.float32], names: Sequence[str]
    ) -> None:
        if templates.shape[1] > _LARGEST:
            raise ValueError(
                f"Argument `search` must not be 'hnsw' for embeddings of more than {_LARGEST:,} "
                f"numbers, which pgvector's graph does not take. Received: {templates.shape[1]:,}"
            )
        self._exact = ExactSearch(templates, "float32")
        self.expansion = _EXPANSION
        self._graph = _ServerGraph(store, store.write_templates(templates, names))


class _Found(NamedTuple):
    keys: NDArray[np.int64]
    counts: NDArray[np.int64]


class _ServerGraph:
    """The index on the server, asked as usearch's is."""

    def __init__(self, store: PostgresStore, ids: Sequence[int]) -> None:
        self._server = store.server
        self._place = {person: place for place, person in enumerate(ids) if person >= 0}

    def search(self, queries: NDArray[np.float32], k: int) -> _Found:
        """Return positions (n, k) of the nearest people, and how many were found for each."""
        keys = np.zeros((len(queries), k), np.int64)
        counts = np.zeros(len(queries), np.int64)
        with self._server.transaction() as database:
            view = min(_MOST, max(_EXPANSION, k))
            database.execute(f"SET LOCAL hnsw.ef_search = {view}")
            database.execute("SET LOCAL enable_seqscan = off")  # the graph, as was asked for
            for row, query in enumerate(queries):
                people = self._nearest(database, query, k)
                keys[row, : len(people)] = people
                counts[row] = len(people)
        return _Found(keys, counts)

    def _nearest(self, database: Any, query: NDArray[np.float32], k: int) -> list[int]:
        rows = database.execute(
            "SELECT person FROM tf_sphereface_templates ORDER BY embedding <#> %s LIMIT %s",
            [query, k],
            binary=True,
        )
        # Who was enrolled by another process since has no place here.
        return [self._place[person] for (person,) in rows if person in self._place]
