"""From photographs and videos to aligned faces: read, detect, choose, cut out."""

from __future__ import annotations

from tf_sphereface.alignment.align import TEMPLATES, align, read_landmarks
from tf_sphereface.alignment.detector import Face, FaceDetector, choose
from tf_sphereface.alignment.images import read_image, write_face

__all__ = [
    "TEMPLATES",
    "Face",
    "FaceDetector",
    "align",
    "choose",
    "read_image",
    "read_landmarks",
    "write_face",
]
