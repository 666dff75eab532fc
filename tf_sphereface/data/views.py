"""Views of faces, for a teacher: turned, moved, lit otherwise, and blended in pairs.

A student that learns from a teacher needs pictures, not labels, and knows of the teacher's space
what it has seen of it. Warps and blends of the faces that are there show it more: the teacher
embeds each of them as it is (consistent teaching, as in Beyer et al., *Knowledge distillation: A
good teacher is patient and consistent*, CVPR 2022; blends: Zhang et al., *mixup*, ICLR 2018).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.files import write_json
from tf_sphereface.utils.messages import ProgressCallback

TURN, SCALE, SHIFT = 6.0, 0.07, 0.027  # deviations: degrees, of the logarithm, of the height
CONTRAST, BRIGHTNESS = 0.15, 15.0  # deviations: of the logarithm, of 255
GRAY = 0.1  # how often a face loses its colours
LEAST = 0.5  # share of its own face in a blend
BLOCK = 4096  # faces among which the other one of a blend is drawn
_FACTS = ".views.json"


def draw_view(
    face: NDArray[np.uint8], other: NDArray[np.uint8] | None, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn, move, scale and light a face by chance; blend it with a view of another one.

    Args:
        face: uint8 RGB (height, width, 3).
        other: likewise, of the same size; None for a view of one face.
        rng: the draws come from it.

    Returns:
        uint8 of the same shape; of a blend `LEAST` or more is `face`.

    Example:

    >>> face = np.full((56, 48, 3), 200, np.uint8)
    >>> draw_view(face, None, np.random.default_rng(0)).shape
    (56, 48, 3)
    """
    pixels = _warped(face, rng)
    if other is not None:
        share = LEAST + (1 - LEAST) * rng.random()
        pixels = share * pixels + (1 - share) * _warped(other, rng)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _warped(face: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a face turned about its middle, moved, and with other light, not yet clipped."""
    height, width = face.shape[:2]
    turn, scale = rng.normal(0, TURN), np.exp(rng.normal(0, SCALE))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    matrix[:, 2] = matrix[:, 2] + rng.normal(0, SHIFT * height, 2)
    border = cv2.BORDER_REFLECT if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    pixels = moved.astype(np.float32)
    mean = pixels.mean()
    contrast, light = np.exp(rng.normal(0, CONTRAST)), rng.normal(0, BRIGHTNESS)
    pixels = (pixels - mean) * np.float32(contrast) + np.float32(mean + light)
    if rng.random() < GRAY:
        pixels[:] = pixels.mean(axis=2, keepdims=True)
    return pixels


def write_views(
    source: FaceSource,
    out: str | os.PathLike[str],
    *,
    views: int = 8,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> int:
    """Write views of faces as a folder per person: the faces as they are, then drawn ones.

    View 0 is the face itself; views 1, 3, 5, ... are of one face (`draw_view`), 2, 4, 6, ... are
    blends with another. Stopped at any moment, the same call goes on where it was.

    Args:
        source: the faces, which are read at its `image_size`; labels are not needed.
        out: a folder; empty, missing, or begun by the same call.
        views: of each face, 1 or more.
        seed: of the draws.
        progress: called with (done, all) faces.

    Returns:
        The number of pictures.

    Raises:
        ValueError: `out` holds something else, or views of other faces.
        OSError: there is no room.

    Example:

    >>> from tf_sphereface import data
    >>> faces = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24))
    >>> write_views(faces, "views", views=3)
    12
    """
    views = check_integer("views", views, 1)
    folder = Path(out)
    _begin(folder, {"faces": source.load().fingerprint(), "views": views, "seed": seed}, source)
    names, labels = source.names, source.labels
    for first, block in _blocks(source):
        for place, face in enumerate(block):
            number = first + place
            person = f"{labels[number]:06d}" if names is None else names[labels[number]]
            (folder / person).mkdir(parents=True, exist_ok=True)
            for view in range(views):
                path = folder / person / f"{number:07d}-{view}.jpg"
                if not path.exists():
                    rng = np.random.default_rng((seed, number, view))
                    other = block[rng.integers(len(block))] if view % 2 == 0 else None
                    _write(path, face if view == 0 else draw_view(face, other, rng))
        if progress is not None:
            progress(first + len(block), len(source))
    return views * len(source)


def _begin(folder: Path, facts: dict[str, object], source: FaceSource) -> None:
    """Make the folder, and note in it what it is to hold; refuse one that holds something else."""
    facts["image_size"] = list(source.image_size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FACTS
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != facts:
            raise ValueError(
                f"{folder} holds views of other faces, or others of these (seed, number, size): "
                "choose another folder, or remove it"
            )
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder for the views")
    write_json(path, facts)


def _blocks(source: FaceSource) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the faces in blocks, uint8 (n, height, width, 3), each with the first one's number."""
    first, held = 0, []
    for images, *_ in source.in_order("uint8", channel_order="rgb"):
        held.append(np.asarray(images))
        if sum(map(len, held)) >= BLOCK:
            yield first, np.concatenate(held)
            first, held = first + sum(map(len, held)), []
    if held:
        yield first, np.concatenate(held)


def _write(path: Path, face: NDArray[np.uint8]) -> None:
    """Write a JPEG, whole or not at all; not forced onto the disk, since it can be drawn again."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    encoded = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)[1]
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(encoded.tobytes())
    os.replace(temporary, path)
