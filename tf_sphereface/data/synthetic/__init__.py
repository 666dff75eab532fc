"""Synthetic faces: drawn people, each image with another pose and light, for demos and tests."""

from __future__ import annotations

from tf_sphereface.data.synthetic.pairs import VerificationSet
from tf_sphereface.data.synthetic.sets import (
    faces,
    training_set,
    verification_set,
    video,
    write_folder,
)
from tf_sphereface.data.synthetic.videos import write_videos

__all__ = [
    "VerificationSet",
    "faces",
    "training_set",
    "verification_set",
    "video",
    "write_folder",
    "write_videos",
]
