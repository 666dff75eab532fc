"""Photographs for the detector: rendered faces on a wall."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.detector import FaceDetector
from tf_sphereface.data import synthetic


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    return FaceDetector()


def make_photo(identity: int, *, scale: float = 1.0, at=(90, 60), size=(260, 300)) -> np.ndarray:
    """One rendered face, 112x96 times `scale`, at x, y of an otherwise gray image."""
    face = synthetic.faces(identities=[identity], samples=[0])[0]
    face = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    photo = np.full((*size, 3), 120, np.uint8)
    x, y = at
    photo[y : y + face.shape[0], x : x + face.shape[1]] = face
    return photo


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    return make_photo(3)


@pytest.fixture(scope="session")
def photograph():
    """The function that makes a photograph."""
    return make_photo
