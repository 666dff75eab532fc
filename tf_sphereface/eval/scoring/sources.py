"""Sources of a protocol's embeddings: image files through a network, or a stored file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment import face_reader
from tf_sphereface.alignment.face_reader import FaceReader, Landmarks, Problems
from tf_sphereface.embedder.embedder import Embedder, embed_sides, load_embedder
from tf_sphereface.eval.scoring.cache import EmbeddingCache
from tf_sphereface.eval.scoring.precomputed import SUFFIX, StoredEmbeddings, read_embeddings
from tf_sphereface.utils.messages import ProgressCallback

Vectors = NDArray[np.float32]
Sides = tuple[Vectors, Vectors | None]
_STORED = 4096  # stored embeddings given at a time


@dataclasses.dataclass(frozen=True)
class EmbeddingOptions:
    """Options of the embedding of images, the same for every protocol.

    Attributes:
        flip: whether mirror images are embedded as well.
        landmarks: a landmark file, or relative path -> (5, 2) points, by which the images are
            aligned; None when they are aligned already.
        batch_size: the most faces that go through the network at once.
        cache: a folder where embeddings are kept, and taken from when model and image are the same
            as before (see `EmbeddingCache`); None keeps none.
        progress: called with (done, in all), images or videos.
        threads: CPU threads of a TensorFlow Lite or ONNX model; None leaves it to them.
        input_facts: how the model is fed, by name, as keyword arguments of `load_embedder`.
    """

    flip: bool = True
    landmarks: Landmarks | None = None
    batch_size: int = 64
    cache: str | os.PathLike[str] | None = None
    progress: ProgressCallback | None = None
    threads: int | None = None
    input_facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class ImageSource:
    """Embeds image files of a folder a few hundred at a time, or takes them from the cache.

    `reader` turns a file into a face; `kind` is what the files are called in the list of problems.
    """

    def __init__(
        self,
        embedder: Embedder,
        root: Path,
        reader: FaceReader,
        options: EmbeddingOptions,
        kind: str = "images",
    ) -> None:
        self.flip = options.flip
        self.embedding_dim = embedder.image_dim
        self._embedder, self._root, self._reader = embedder, root, reader
        self._problems = Problems(kind)
        self._cache = None if options.cache is None else EmbeddingCache(options.cache, embedder)

    def stream(self, names: Sequence[str]) -> Iterator[Sides]:
        """Yield the embeddings of `names` in order, (k, embedding_dim) each, mirrored or None.

        After the first file that cannot be used nothing more is yielded, but the remaining files
        are still read, so that `check` can list every one.
        """
        with self._reader.pool() as pool:
            for start in range(0, len(names), face_reader.CHUNK):
                part = names[start : start + face_reader.CHUNK]
                sides: Sides | None = None
                if self._cache is not None:
                    sides = self._from_cache(pool, part, self._cache)
                else:
                    images = self._reader.read_all(pool, self._root, part, self._problems)
                    if images is not None:
                        sides = embed_sides(self._embedder, images, self.flip)
                if sides is not None:
                    yield sides

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
        self, pool: ThreadPoolExecutor, names: Sequence[str], cache: EmbeddingCache
    ) -> Sides | None:
        """Take the embeddings that the cache has, compute the others and store them."""
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

    def stream(self, names: Sequence[str]) -> Iterator[Sides]:
        """Yield the embeddings of `names` in order; nothing where one of them is missing."""
        missing = [name for name in names if name not in self._position]
        for name in missing:
            held = (
                f"which names {self._stored.names[0]!r}" if self._stored.names else "which is empty"
            )
            self._problems.add(name, f"not in the file of embeddings, {held}")
        if not self._problems and names:
            at = [self._position[name] for name in names]
            mirrored = self._stored.mirrored if self.flip else None
            for start in range(0, len(at), _STORED):
                part = at[start : start + _STORED]
                yield self._stored.embeddings[part], None if mirrored is None else mirrored[part]

    def close(self) -> None:
        """Do nothing."""

    def check(self, total: int) -> None:
        """Raise a ValueError that lists the names, of `total`, that the file lacks."""
        self._problems.raise_if_any(total, self._stored.path or "the given embeddings")


EmbeddingSource = ImageSource | StoredSource


def open_embedder(
    model: Any, options: EmbeddingOptions = EmbeddingOptions()
) -> Embedder | StoredEmbeddings:
    """Open what a protocol is run on: what `load_embedder` takes, or stored embeddings (`.npz`)."""
    if isinstance(model, StoredEmbeddings):
        return model
    facts = options.input_facts
    if isinstance(model, str | os.PathLike) and Path(model).suffix == SUFFIX:
        if facts:
            raise ValueError(
                f"{model} holds embeddings, which are fed to nothing. Received: {', '.join(facts)}"
            )
        return read_embeddings(model)
    return load_embedder(model, batch_size=options.batch_size, threads=options.threads, **facts)


def embedding_source(
    model: Embedder | StoredEmbeddings,
    root: Path | None,
    options: EmbeddingOptions,
    kind: str = "images",
) -> EmbeddingSource:
    """Return the source of a protocol's embeddings: the image files of a folder, or stored ones.

    `kind` is what the items, and the argument that `root` came from, are called in errors.
    """
    if isinstance(model, StoredEmbeddings):
        if options.landmarks is not None:
            raise ValueError(
                "landmarks align images, and stored embeddings (.npz) need none. Received: both"
            )
        return StoredSource(model, options.flip, kind)
    if root is None:
        raise ValueError(
            f"{kind} must be a folder, unless stored embeddings (.npz) take the place of the "
            "model. Received: None"
        )
    return ImageSource(model, root, FaceReader(model.input_size, options.landmarks), options, kind)


def embed_all(
    source: EmbeddingSource, names: Sequence[str], progress: ProgressCallback | None = None
) -> Sides:
    """Return the embeddings of all names, (n, embedding_dim), and of their mirror images or None.

    Raises:
        ValueError: some files cannot be used; all of them are listed.
    """
    plain: list[Vectors] = []
    mirrored: list[Vectors] = []
    done = 0
    try:
        for part, other in source.stream(names):
            plain.append(part)
            if other is not None:
                mirrored.append(other)
            done += len(part)
            if progress is not None:
                progress(done, len(names))
    finally:
        source.close()
    source.check(len(names))
    return np.concatenate(plain), np.concatenate(mirrored) if mirrored else None
