"""Faces of photographs, cut out and embedded as a verifier compares them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.detector import choose
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.alignment.photo_reader import NoFace, PhotoFace, PhotoReader
from tf_sphereface.alignment.plausibility import check_face
from tf_sphereface.embedder.embedder import Embedder, embed_sides
from tf_sphereface.eval.scoring.score_pairs import join_sides
from tf_sphereface.search.kept_embeddings import KeptEmbedding, KeptEmbeddings
from tf_sphereface.utils.messages import ProgressCallback

_BATCH = 64


class PhotoFaces:
    """Reads the faces of an image: itself where it has the network's size, else what is detected.

    What is detected and cannot be a face, by its points, is left out. Several threads may call it
    at once. `detector` is that of `PhotoReader`.
    """

    def __init__(
        self, input_size: tuple[int, int], *, detector: str | os.PathLike[str] | None = None
    ) -> None:
        self._reader = PhotoReader(input_size, detector=detector)

    def __call__(self, path: Path) -> list[PhotoFace]:
        """Return the faces of an image file, the largest first; none where none was found.

        Raises:
            ValueError: the file cannot be read, or its faces cannot be aligned for the network.
            OSError: likewise.
            ImportError: a package of the extra `align` is missing.
        """
        try:
            photos = self._reader.find_all(read_photo(path), path)
        except NoFace:
            return []
        faces = [photo for photo in photos if _plausible(photo)]
        return [dataclasses.replace(photo, count=min(photo.count, len(faces))) for photo in faces]

    def central(self, path: Path) -> PhotoFace | None:
        """Return the face nearest the center of an image file; None where there is none."""
        faces = self(path)
        found = [face.face for face in faces if face.face is not None]
        if not found:
            return faces[0] if faces else None
        (chosen,) = choose(found, (faces[0].image.shape[0], faces[0].image.shape[1]), "center")
        return next(face for face in faces if face.face is chosen)


def _plausible(photo: PhotoFace) -> bool:
    shape = (photo.image.shape[0], photo.image.shape[1])
    return photo.face is None or check_face(photo.face.points, shape) is None


@dataclass
class EmbeddedFaces:
    """Embeddings of image files, one face each, and what went wrong with the others.

    Attributes:
        names: (n,) whom each shows.
        sources: (n,) their paths.
        vectors: float32 (n, d).
        problems: path -> why it is not among them.
        several: paths of photographs with several faces; the one nearest the center was taken.
        kept: how many embeddings an earlier call had kept.
    """

    names: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    problems: dict[str, str] = field(default_factory=dict)
    several: list[str] = field(default_factory=list)
    kept: int = 0


def vectors_of(embedder: Embedder, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed aligned faces (n, height, width, 3) as the model's metadata say that they are compared.

    An embedding may be zero or not finite: it has no direction.
    """
    flip = embedder.metadata.flip
    plain, mirrored = embed_sides(embedder, crops, flip != "none")
    return np.asarray(join_sides(plain, mirrored, flip), np.float32)


def embed_people(
    embedder: Embedder,
    listed: Iterable[tuple[str, Path]],
    total: int,
    progress: ProgressCallback | None = None,
    *,
    detector: str | os.PathLike[str] | None = None,
    kept: KeptEmbeddings | None = None,
) -> EmbeddedFaces:
    """Embed the face of each image file; what cannot be used is noted, and ends nothing.

    Args:
        embedder: the model.
        listed: name of the person and path of the image.
        total: how many, for `progress`.
        progress: called with (done, in all).
        detector: that of `PhotoReader`.
        kept: embeddings that are done, and where others are kept.

    Raises:
        ImportError: a package of the extra `align` is missing.
        OSError: embeddings cannot be kept.
    """
    reader, result = PhotoFaces(embedder.input_size, detector=detector), EmbeddedFaces()
    batch = _Batch(embedder, result, kept)
    for done, (name, path, found) in enumerate(_read_in_threads(reader, listed, kept), 1):
        if isinstance(found, str):
            result.problems[str(path)] = found
        else:
            batch.add(name, str(path), found)
        if progress is not None:
            progress(done, total)
    batch.finish()
    parts = [np.zeros((0, dim_of(embedder)), np.float32), *batch.parts]
    result.vectors = np.concatenate(parts)
    return result


class _Batch:
    """Faces that wait until there are enough to embed, and vectors that wait behind them."""

    def __init__(
        self, embedder: Embedder, result: EmbeddedFaces, kept: KeptEmbeddings | None
    ) -> None:
        self._embedder, self._result, self._kept = embedder, result, kept
        self._waiting: list[tuple[str, str, PhotoFace | KeptEmbedding]] = []
        self._crops = 0
        self.parts: list[NDArray[np.float32]] = []

    def add(self, name: str, source: str, found: PhotoFace | KeptEmbedding) -> None:
        self._waiting.append((name, source, found))
        self._crops += isinstance(found, PhotoFace)
        if self._crops == _BATCH:
            self.finish()

    def finish(self) -> None:
        """Embed what waits; a vector without a direction is a problem of its picture."""
        if not self._waiting:
            return
        result, vectors = self._result, self._vectors()
        norms = np.linalg.norm(np.float64(vectors), axis=1)
        usable = np.isfinite(norms) & (norms > 0)
        new: list[int] = []
        several: list[bool] = []
        for place, (name, source, found) in enumerate(self._waiting):
            if not usable[place]:
                result.problems[source] = "its embedding is zero or not finite"
                continue
            result.names.append(name)
            result.sources.append(source)
            if isinstance(found, KeptEmbedding):
                result.kept += 1
                more = found.several
            else:
                more = found.count > 1
                new.append(place)
                several.append(more)
            if more:
                result.several.append(source)
        if self._kept is not None:
            self._kept.add([self._waiting[place][1] for place in new], vectors[new], several)
        self.parts.append(vectors[usable])
        self._waiting.clear()
        self._crops = 0

    def _vectors(self) -> NDArray[np.float32]:
        """Return the vectors of what waits (n, d)."""
        crops = [found.crop for _, _, found in self._waiting if isinstance(found, PhotoFace)]
        vectors = np.empty((len(self._waiting), dim_of(self._embedder)), np.float32)
        fresh = iter(vectors_of(self._embedder, np.stack(crops)) if crops else ())
        for vector, (_, _, found) in zip(vectors, self._waiting, strict=True):
            vector[:] = found.vector if isinstance(found, KeptEmbedding) else next(fresh)
        return vectors


def dim_of(embedder: Embedder) -> int:
    """Return the length of the vectors that `vectors_of` gives."""
    return embedder.embedding_dim * (2 if _doubled(embedder) else 1)


def _doubled(embedder: Embedder) -> bool:
    return embedder.metadata.flip == "concat" and not embedder.metadata.flip_built_in


def _read_in_threads(
    reader: PhotoFaces, listed: Iterable[tuple[str, Path]], kept: KeptEmbeddings | None
) -> Iterator[tuple[str, Path, PhotoFace | KeptEmbedding | str]]:
    """Yield name, path, and the face or why there is none, in order; a few files ahead."""

    def read(path: Path) -> PhotoFace | KeptEmbedding | str:
        known = None if kept is None else kept.get(path)
        if known is not None:
            return known
        try:
            face = reader.central(path)
        except (OSError, ValueError) as error:
            return str(error).removeprefix(f"{path}: ")
        return face or "no face was found in it"

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: list[tuple[str, Path, Future[PhotoFace | KeptEmbedding | str]]] = []
        files = iter(listed)
        try:
            for name, path in files:
                pending.append((name, path, pool.submit(read, path)))
                if len(pending) >= 4 * threads:
                    first = pending.pop(0)
                    yield first[0], first[1], first[2].result()
            for name, path, future in pending:
                yield name, path, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
