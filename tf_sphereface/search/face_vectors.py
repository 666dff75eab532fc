"""The faces of a batch of pictures as vectors: one object per worker, called per batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image, read_photo
from tf_sphereface.alignment.photo_reader import Alignment, NoFace, PhotoFace, PhotoReader
from tf_sphereface.embedder.embedder import Embedder, embed_sides, load_embedder
from tf_sphereface.eval.scoring.score_pairs import join_sides
from tf_sphereface.search.face_table import FaceTable
from tf_sphereface.utils.checks import check_integer, check_number
from tf_sphereface.utils.files import sha256_file

NO_FACE = "no face was found"
_NAN = float("nan")


class FaceVectors:
    """Finds, aligns and embeds every face of the pictures of a batch.

    Made once per worker and called per batch, as Ray Data's `map_batches` wants it:
    `dataset.map_batches(FaceVectors, fn_constructor_args=["embedder.keras"], concurrency=2)`. Faces
    and crops depend on the picture alone. Vectors depend on the batch by rounding only: the cosine
    between two of one face is above 1 - 1e-6.

    Args:
        model: what `load_embedder` takes.
        alignment: `"auto"`: pictures of the model's size are aligned faces, in others faces are
            looked for; `"always"`: in all of them; `"never"`: all must be aligned.
        detector: an ONNX file of YuNet; None: MTCNN.
        min_face: smaller faces are left out, in pixels, at least 20.
        batch_size: the most faces that go through the network at once.
        jobs: threads that read and detect; 1 by default, for workers with a core each.
        facts: how the model is fed, as keyword arguments of `load_embedder`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as of `load_embedder` and `make_detector`.

    Example:

    >>> import keras
    >>> from tf_sphereface.data import synthetic
    >>> layers = [keras.Input((112, 96, 3)), keras.layers.AveragePooling2D(16)]
    >>> network = keras.Sequential([*layers, keras.layers.Flatten()])
    >>> embed = FaceVectors(network, facts={"channel_order": "rgb", "pixel_mean": 127.5,
    ...                                     "pixel_scale": 128.0})
    >>> face = synthetic.faces(identities=[1], samples=[0])[0]
    >>> rows = embed.table(["a.png"], [face])
    >>> rows.embeddings.shape, rows.paths
    ((1, 126), ['a.png'])
    """

    def __init__(
        self,
        model: Any,
        alignment: Alignment = "auto",
        *,
        detector: str | os.PathLike[str] | None = None,
        min_face: float = 28.0,
        batch_size: int = 64,
        jobs: int = 1,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        check_number("min_face", min_face, 20)
        self._jobs = check_integer("jobs", jobs, 1)
        self.embedder: Embedder = load_embedder(model, batch_size, **dict(facts or {}))
        self.flip = self.embedder.metadata.flip
        self._reader = PhotoReader(
            self.embedder.input_size, alignment, detector=detector, min_face=min_face
        )
        digest = None if detector is None else sha256_file(detector)
        self.settings = {"alignment": alignment, "min_face": float(min_face), "yunet": digest}
        self._blank = self._unit(self._vectors(_blank_pictures(self.embedder.input_size)))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Embed the faces of a batch.

        Args:
            batch: `"path"` (n,), and `"bytes"` (n,) where the files' contents were read already.

        Returns:
            The columns `path`, `face`, `box`, `points`, `score`, `norm`, `sharpness`, `blankness`,
            `embedding` and `problem`, a row for each face. A picture that gave none has one row
            too, with `face` -1, NaN, and the reason as `problem`, which is empty otherwise.
        """
        names = [str(path) for path in batch["path"]]
        contents = batch.get("bytes")

        def read(place: int) -> NDArray[np.uint8]:
            if contents is None:
                return read_photo(names[place])
            return decode_image(bytes(contents[place]), names[place])

        table = self.read_table(names, read)
        lost = list(table.failed)
        count, width = len(lost), table.embeddings.shape[1]

        def column(values: NDArray[Any], missing: float) -> NDArray[Any]:
            more = np.full((count, *values.shape[1:]), missing, values.dtype)
            return np.concatenate([values, more])

        return {
            "path": np.array([*table.paths, *lost], object),
            "face": column(table.faces, -1),
            "box": column(table.boxes, _NAN),
            "points": column(table.points.reshape(-1, 10), _NAN),
            "score": column(table.scores, _NAN),
            "norm": column(table.norms, _NAN),
            "sharpness": column(table.sharpness, _NAN),
            "blankness": column(table.blankness, _NAN),
            "embedding": column(table.embeddings.reshape(-1, width), _NAN),
            "problem": np.array([*[""] * len(table), *table.failed.values()], object),
        }

    def table(self, names: Sequence[str], images: Sequence[NDArray[np.uint8]]) -> FaceTable:
        """Embed the faces of pictures in memory, uint8 RGB, under these names."""
        return self.read_table(names, lambda place: images[place])

    def read_table(
        self, names: Sequence[str], read: Callable[[int], NDArray[np.uint8]]
    ) -> FaceTable:
        """Embed the faces of the pictures that `read` gives by their place in `names`."""

        def find(place: int) -> list[PhotoFace] | str:
            try:
                faces = self._reader.find_all(read(place), Path(names[place]))
                for face in faces:
                    face.image = face.crop  # the picture itself may be large
                return faces
            except NoFace:
                return NO_FACE
            except (OSError, ValueError) as error:
                return str(error).rpartition(f"{names[place]}: ")[2]

        places = range(len(names))
        if self._jobs == 1:
            found = [find(place) for place in places]
        else:
            with ThreadPoolExecutor(self._jobs) as pool:
                found = list(pool.map(find, places))
        failed = {names[i]: why for i, why in enumerate(found) if isinstance(why, str)}
        photos = [
            (i, k, face)
            for i, faces in enumerate(found)
            if not isinstance(faces, str)
            for k, face in enumerate(faces)
        ]
        height, width = self.embedder.input_size
        crops = np.zeros((len(photos), height, width, 3), np.uint8)
        for row, (_, _, photo) in enumerate(photos):
            crops[row] = photo.crop
        vectors = self._vectors(crops)
        good = np.isfinite(vectors).all(axis=1) & (np.abs(vectors).max(axis=1, initial=0.0) > 0)
        for row in np.flatnonzero(~good).tolist():
            failed[names[photos[row][0]]] = "its embedding is zero or not finite"
        kept = [photos[row] for row in np.flatnonzero(good).tolist()]
        found_faces = [photo.face for _, _, photo in kept]
        return FaceTable(
            [names[i] for i, _, _ in kept],
            vectors[good],
            faces=np.array([k for _, k, _ in kept], np.int32),
            boxes=_stack([None if f is None else f.box for f in found_faces], (4,)),
            points=_stack([None if f is None else f.points for f in found_faces], (5, 2)),
            scores=np.array([_NAN if f is None else f.score for f in found_faces], np.float64),
            sharpness=np.array([sharpness(photo.crop) for _, _, photo in kept], np.float64),
            blankness=(self._unit(vectors[good]) @ self._blank.T).max(axis=1),
            failed=failed,
        )

    def _vectors(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what a verifier compares, float32 (n, d)."""
        plain, mirrored = embed_sides(self.embedder, crops, self.flip != "none")
        return np.asarray(join_sides(plain, mirrored, self.flip), np.float32)

    @staticmethod
    def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        values = np.nan_to_num(vectors.astype(np.float64))
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        return np.asarray(values / np.where(norms > 0, norms, 1.0))


def sharpness(face: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of a face, uint8 RGB, averaged down to 112 pixels.

    A face that is out of focus, or was enlarged from few pixels, has a low one.
    """
    gray = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
    if gray.shape[0] > 112:
        size = (round(gray.shape[1] * 112 / gray.shape[0]), 112)
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def _stack(values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    filled = [np.full(shape, np.nan) if value is None else value for value in values]
    return np.stack(filled) if filled else np.zeros((0, *shape))


def _blank_pictures(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return pictures without a face: flat, noise of several grains, ramps."""
    rng = np.random.default_rng(0)
    height, width = size
    pictures = [np.full((height, width, 3), gray, np.uint8) for gray in (0, 64, 127, 190, 255)]
    for grain in (1, 2, 4, 8, 16):
        cells = (max(1, height // grain), max(1, width // grain), 3)
        noise = rng.integers(0, 256, cells).astype(np.uint8)
        grains = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        pictures.append(np.asarray(grains, np.uint8))
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    pictures.append(np.broadcast_to(ramp[None, :, None], (height, width, 3)))
    ramp = np.linspace(0, 255, height).astype(np.uint8)
    pictures.append(np.broadcast_to(ramp[:, None, None], (height, width, 3)))
    return np.stack(pictures)
