"""Faces to calibrate a quantisation and to compare a file with Keras."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES

MAX_CALIBRATION_FACES = 256
FEWEST_CALIBRATION_FACES = 32  # below, a file that passes on them may fail on others
PROBE_FACES = 48

FaceSource = np.ndarray | str | os.PathLike[str] | Iterable[np.ndarray]


def calibration_faces(
    source: FaceSource,
    input_size: tuple[int, int],
    limit: int = MAX_CALIBRATION_FACES,
    seed: int = 0,
) -> np.ndarray:
    """Return 1 to `limit` aligned faces of a source, uint8 RGB (n, height, width, 3).

    Of an array or a folder (searched with its subfolders) that holds more, a random choice is
    taken; an iterable of batches is read only as far as needed. A file at the alignment template's
    size (112x96 for a network of 56x48) is averaged down; any other size is an error.
    """
    if isinstance(source, (str, os.PathLike)):
        faces = _from_folder(Path(source), input_size, limit, seed)
    elif isinstance(source, np.ndarray):
        faces = _check(source, input_size)
        faces = faces[_choice(len(faces), limit, seed)]
    else:
        faces = _from_batches(source, input_size, limit)
    if len(faces) == 0:
        raise ValueError("calibration must hold at least one face. Received: none")
    return faces


def probe_faces(input_size: tuple[int, int], count: int = PROBE_FACES) -> np.ndarray:
    """Return `count` synthetic faces, each of another identity, the same ones every time."""
    from tf_sphereface.data import synthetic

    return synthetic.faces(np.arange(count), np.zeros(count, np.int64), seed=7, size=input_size)


def _from_folder(root: Path, input_size: tuple[int, int], limit: int, seed: int) -> np.ndarray:
    if not root.is_dir():
        raise FileNotFoundError(f"calibration must be a folder that exists. Received: {root}")
    paths = sorted(root / name for name in find_images(root))  # through links too
    if not paths:
        raise ValueError(
            f"calibration must be a folder of images ({', '.join(IMAGE_SUFFIXES)}). "
            f"Received: {root}, which holds none"
        )
    reader = FaceReader(input_size)
    faces = []
    for path in (paths[i] for i in _choice(len(paths), limit, seed)):
        try:
            faces.append(reader(path, path.name))
        except ValueError as error:
            raise ValueError(
                f"calibration must hold aligned faces. Received: {path}: {error}. "
                f"{reader.how_to_align}"
            ) from error
    return np.stack(faces)


def _from_batches(source: Any, input_size: tuple[int, int], limit: int) -> np.ndarray:
    batches = [np.zeros((0, *input_size, 3), np.uint8)]
    count = 0
    for batch in source:
        if isinstance(batch, (tuple, list)):
            raise ValueError(
                "calibration must give batches of images alone. Received: batches of "
                f"{len(batch)} parts; of a dataset take dataset.map(lambda image, label: image), "
                "and uint8 pixels"
            )
        batches.append(_check(np.asarray(batch), input_size))
        count += len(batches[-1])
        if count >= limit:
            break
    return np.concatenate(batches)[:limit]


def _choice(count: int, limit: int, seed: int) -> np.ndarray:
    """Return at most `limit` indices, in order."""
    chosen = np.random.default_rng(seed).choice(count, min(count, limit), replace=False)
    return np.sort(chosen)


def _check(faces: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    if faces.dtype != np.uint8:
        raise ValueError(
            "calibration must be uint8 RGB pixels of 0 to 255 (they are normalised here). "
            f"Received: dtype {faces.dtype}"
        )
    if faces.ndim != 4 or faces.shape[1:] != (*input_size, 3):
        raise ValueError(
            f"calibration must have the shape (n, {input_size[0]}, {input_size[1]}, 3). "
            f"Received: {faces.shape}"
        )
    return faces
