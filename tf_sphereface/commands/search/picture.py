"""Picture of photographs with the names of their faces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import write_face
from tf_sphereface.alignment.photo_reader import PhotoFace

_LONGEST = 1200  # side of a photograph in the picture, in pixels
_NAMED, _UNKNOWN = (0, 255, 0), (255, 64, 64)


def write_picture(
    path: Path, photos: Sequence[tuple[Sequence[PhotoFace], Sequence[dict[str, Any]]]]
) -> None:
    """Write photographs below each other, each face with its name, "?" where it is unknown."""
    images = [_marked(faces, answers) for faces, answers in photos]
    width = max(image.shape[1] for image in images)
    padded = [np.pad(image, ((0, 8), (0, width - image.shape[1]), (0, 0))) for image in images]
    write_face(path, np.concatenate(padded))


def _marked(faces: Sequence[PhotoFace], answers: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """Return a photograph with boxes and names drawn into it."""
    image = faces[0].image
    scale = min(1.0, _LONGEST / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    for face, answer in zip(faces, answers, strict=True):
        color = _UNKNOWN if answer["name"] is None else _NAMED
        text = "?" if answer["name"] is None else _plain(answer["name"])
        x1, y1, _, y2 = 0, 0, 0, image.shape[0]
        if face.face is not None:
            x1, y1, x2, y2 = (round(float(value) * scale) for value in face.face.box)
            cv2.rectangle(image, (x1, y1), (x2, y2), color, 2)
        letters = min(1.0, max(0.4, (y2 - y1) / 160))
        place = (max(0, x1), min(image.shape[0] - 4, y2 + round(24 * letters)))
        for width, shade in ((4, (0, 0, 0)), (1, color)):  # legible on any ground
            cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, letters, shade, width, 16)
    return image


def _plain(name: str) -> str:
    """Return a name in the letters that OpenCV draws, without their accents."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() or "(named)"
