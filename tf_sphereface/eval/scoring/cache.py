"""Cache of embeddings on disk, by the content of the image and of the model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.embedder.model_hashes import model_sha256

_CREATE = (
    "CREATE TABLE IF NOT EXISTS embeddings "
    "(key TEXT NOT NULL, mirrored INTEGER NOT NULL, vector BLOB NOT NULL, "
    "PRIMARY KEY (key, mirrored)) WITHOUT ROWID"
)
_KEYS_PER_QUERY = 500  # SQLite takes at least 999


class EmbeddingCache:
    """Embeddings on disk, one SQLite file per model, so that a killed evaluation can go on.

    The file is named after the SHA-256 of the model's file: another model, or the same one saved
    with other metadata, or opened with facts of its input given, is another file. Within it a row
    is found by the key of the face (`FaceReader.key`: the image's bytes and how it is aligned) and
    by whether it is mirrored. Each `put` is a transaction: after a crash, what was put is there and
    whole. A model in memory has no content hash and is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], embedder: Embedder) -> None:
        if embedder.path is None:
            raise ValueError(
                "a cache needs a model in a file, whose content names it. "
                "Received: a model in memory; save it first, or leave the cache out"
            )
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cache must be a folder that can be made. Received: {str(folder)!r} ({error})"
            ) from error
        name = model_sha256(embedder.path)
        given = getattr(embedder, "given", {})
        if given:
            name += "-" + hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{name}.sqlite"
        self._size = embedder.image_dim
        with self._as_os_error("is no cache of embeddings"):
            self._database = sqlite3.connect(self.path, timeout=60)
            with self._database:
                self._database.execute(_CREATE)

    def get(self, keys: Sequence[str], mirrored: bool) -> list[NDArray[np.float32] | None]:
        """Return the embedding of each key, float32 (embedding_dim,), None where it is not there.

        `mirrored` asks for those of the mirror images. A damaged file is an OSError.
        """
        vectors: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            piece = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(piece))
            with self._as_os_error("cannot be read"):
                rows = self._database.execute(
                    f"SELECT key, vector FROM embeddings WHERE mirrored = ? AND key IN ({marks})",
                    (int(mirrored), *piece),
                ).fetchall()
            for key, blob in rows:
                vector = np.frombuffer(blob, "<f4").astype(np.float32)
                if len(vector) == self._size:
                    vectors[key] = vector
        return [vectors.get(key) for key in keys]

    def put(self, keys: Sequence[str], mirrored: bool, vectors: NDArray[np.float32]) -> None:
        """Store embeddings, float32 (len(keys), embedding_dim); on return they are on disk."""
        with self._as_os_error("cannot be written"), self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)",
                [
                    (key, int(mirrored), np.asarray(vector, "<f4").tobytes())
                    for key, vector in zip(keys, vectors, strict=True)
                ],
            )

    @contextlib.contextmanager
    def _as_os_error(self, what: str) -> Iterator[None]:
        """Raise what SQLite raises as an OSError that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.path} {what}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
