"""Picture of a verdict: the two images with the detected faces, the crops and the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import write_face
from tf_sphereface.alignment.photo_reader import PhotoFace

_HEIGHT = 336  # of each image in the picture, in pixels
_BAR = 64


def write_picture(path: Path, faces: Sequence[PhotoFace], lines: Sequence[str]) -> None:
    """Write the images with the detected faces, the crops beside them, two lines of text below."""
    rows = []
    for face in faces:
        photo = _scaled(_marked(face), _HEIGHT)
        rows.append(np.concatenate([photo, _scaled(face.crop, _HEIGHT)], axis=1))
    width = max(720, *(row.shape[1] for row in rows))
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    bar = np.zeros((_BAR, width, 3), np.uint8)
    for number, line in enumerate(lines):
        place = (8, 24 + 28 * number)
        text = line.replace("°", " deg")
        cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, 16)
    write_face(path, np.concatenate([*padded, bar]))


def _marked(face: PhotoFace) -> NDArray[np.uint8]:
    """Return the image with the detected box and points drawn into it."""
    image = face.image.copy()
    if face.face is not None:
        width = max(1, round(max(image.shape[:2]) / 300))
        x1, y1, x2, y2 = (round(float(value)) for value in face.face.box)
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 255, 0), width)
        for x, y in face.face.points:
            cv2.circle(image, (round(float(x)), round(float(y))), 2 * width, (255, 64, 64), -1)
    return image


def _scaled(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
