"""Where a protocol's embeddings come from: image files through a network, or a stored file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment import face_reader
from tf_sphereface.alignment.face_reader import FaceReader, Landmarks, Problems, ProgressCallback
from tf_sphereface.embedder.embedder import Embedder, embed_sides
from tf_sphereface.eval.scoring.cache import EmbeddingCache
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings

Vectors = NDArray[np.float32]
Piece = tuple[Vectors, Vectors | None]


class ImageSource:
    """Embeds image files a few hundred at a time, or takes what the cache has of them.

    Args:
        embedder: the embedder.
        root: the folder.
        reader: turns a file into a face.
        flip: whether mirror images are embedded as well.
        cache: a folder of embeddings that were computed before, or None.
        kind: what the files are called in the list of problems.
    """

    def __init__(
        self,
        embedder: Embedder,
        root: Path,
        reader: FaceReader,
        flip: bool = True,
        cache: str | os.PathLike[str] | None = None,
        kind: str = "images",
    ) -> None:
        self.flip = flip
        self.embedding_dim = embedder.image_dim
        self._embedder, self._root, self._reader = embedder, root, reader
        self._problems = Problems(kind)
        self._cache = EmbeddingCache(cache, embedder) if cache is not None else None

    def stream(self, names: Sequence[str]) -> Iterator[Piece]:
        """Yield the embeddings of `names` in order, (k, embedding_dim) a piece, mirrored or None.

        From the first file on that cannot be used nothing more is yielded, but the rest is still
        read, so that `check` names every file.
        """
        with self._reader.pool() as pool:
            for start in range(0, len(names), face_reader.CHUNK):
                piece = names[start : start + face_reader.CHUNK]
                if self._cache is not None:
                    found = self._from_cache(pool, piece, self._cache)
                else:
                    images = self._reader.read_all(pool, self._root, piece, self._problems)
                    found = None
                    if images is not None:
                        found = embed_sides(self._embedder, images, self.flip)
                if found is not None:
                    yield found

    def close(self) -> None:
        """Close the cache."""
        if self._cache is not None:
            self._cache.close()

    def check(self, total: int) -> None:
        """Raise a ValueError that lists the files, of `total`, that could not be used."""
        self._problems.raise_if_any(total, self._root, self._reader.hint)

    def _computed(self, images: np.ndarray, mirrored: bool) -> list[tuple[bool, Vectors]]:
        """Return (mirrored, embeddings) of one side, and of the other where both come in one."""
        if self._embedder.metadata.flip_built_in:
            plain, other = embed_sides(self._embedder, images)
            return [(False, plain), (True, np.asarray(other))]
        side = np.ascontiguousarray(images[:, :, ::-1]) if mirrored else images
        return [(mirrored, self._embedder(side))]

    def _from_cache(
        self, pool: face_reader.Pool, names: Sequence[str], cache: EmbeddingCache
    ) -> Piece | None:
        """Take what is there, embed the rest and keep it."""
        keyed = self._reader.keys(pool, self._root, names, self._problems)
        keys = [key for _, key in keyed]
        sides = [False, True] if self.flip else [False]
        rows = {side: cache.get(keys, side) for side in sides}
        lacking = [i for i in range(len(keys)) if any(rows[side][i] is None for side in sides)]
        images = self._reader.read_all(
            pool, self._root, [keyed[i][0] for i in lacking], self._problems
        )
        if images is None:
            return None
        for side in sides:
            new = [k for k, i in enumerate(lacking) if rows[side][i] is None]
            for computed, vectors in self._computed(images[new], side) if new else []:
                cache.put([keys[lacking[k]] for k in new], computed, vectors)
                for k, vector in zip(new, vectors, strict=True):
                    if computed in rows:
                        rows[computed][lacking[k]] = vector
        plain, *mirrored = [np.stack([v for v in rows[side] if v is not None]) for side in sides]
        return plain, mirrored[0] if mirrored else None


class StoredSource:
    """Gives embeddings of a file as a protocol asks for them.

    Args:
        stored: the embeddings.
        flip: whether those of mirror images are wanted; they are given if the file has them.
        kind: what the embeddings are of, for the list of those that are missing.
    """

    def __init__(self, stored: StoredEmbeddings, flip: bool = True, kind: str = "images") -> None:
        self.flip = flip and stored.mirrored is not None
        self.embedding_dim = stored.embedding_dim
        self._stored = stored
        self._position = {name: i for i, name in enumerate(stored.names)}
        self._problems = Problems(kind)

    def stream(self, names: Sequence[str]) -> Iterator[Piece]:
        """Yield the embeddings of `names` in order; nothing where one of them is missing."""
        missing = [name for name in names if name not in self._position]
        for name in missing:
            self._problems.add(name, "not in the file of embeddings")
        if not self._problems and names:
            at = [self._position[name] for name in names]
            mirrored = self._stored.mirrored if self.flip else None
            yield self._stored.embeddings[at], None if mirrored is None else mirrored[at]

    def close(self) -> None:
        """Do nothing."""

    def check(self, total: int) -> None:
        """Raise a ValueError that lists the names, of `total`, that the file lacks."""
        self._problems.raise_if_any(total, self._stored.path or "the given embeddings")


Source = ImageSource | StoredSource


def open_source(
    model: Embedder | StoredEmbeddings,
    root: Path | None,
    landmarks: Landmarks | None = None,
    flip: bool = True,
    cache: str | os.PathLike[str] | None = None,
    kind: str = "images",
    argument: str = "images",
) -> Source:
    """Return the source of a protocol's embeddings.

    Args:
        model: what `precomputed.open_model` returned.
        root: the folder of image files; None only for stored embeddings.
        landmarks: as for `FaceReader`.
        flip: whether mirror images are wanted.
        cache: as for `ImageSource`.
        kind: what the items are called in the list of problems.
        argument: the name of the argument that `root` came from.

    Raises:
        ValueError: an embedder without a folder, or landmarks with stored embeddings.
    """
    if isinstance(model, StoredEmbeddings):
        if landmarks is not None:
            raise ValueError(
                "landmarks align images, and stored embeddings (.npz) need none. Received: both"
            )
        return StoredSource(model, flip, kind)
    if root is None:
        raise ValueError(
            f"{argument} must be a folder, unless stored embeddings (.npz) take the place of the "
            "model. Received: None"
        )
    return ImageSource(model, root, FaceReader(model.input_size, landmarks), flip, cache, kind)


def embed_all(
    source: Source, names: Sequence[str], progress: ProgressCallback | None = None
) -> tuple[Vectors, Vectors | None]:
    """Return the embeddings of all names, (n, embedding_dim), and of their mirror images or None.

    Raises:
        ValueError: some files cannot be used; all of them are listed.
    """
    plain: list[Vectors] = []
    mirrored: list[Vectors] = []
    done = 0
    try:
        for piece, other in source.stream(names):
            plain.append(piece)
            if other is not None:
                mirrored.append(other)
            done += len(piece)
            if progress is not None:
                progress(done, len(names))
    finally:
        source.close()
    source.check(len(names))
    return np.concatenate(plain), np.concatenate(mirrored) if mirrored else None
