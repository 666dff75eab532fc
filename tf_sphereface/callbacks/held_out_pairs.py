"""Verification on faces of people who are kept out of training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_sphereface.callbacks.verification import Verification
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.held_out import uint8_faces
from tf_sphereface.eval.folder import draw_pairs


def verify_on(
    source: FaceSource, pairs_per_fold: int = 300, seed: int = 0, **options: Any
) -> Verification:
    """Return a verification on pairs that are drawn from faces, such as `data.hold_out` returns.

    Args:
        source: faces of four people at least.
        pairs_per_fold: pairs of each class in a fold, at most; the folds are ten, or half as many
            as people, and have no person in common.
        seed: of the pairs.
        **options: keyword arguments of `Verification`.

    Raises:
        ValueError: too few people, or too few of them with two images.

    Example:

    >>> from tf_sphereface import data
    >>> faces = data.synthetic.training_set(4, 3, size=(28, 24))
    >>> verification = verify_on(data.FaceSource(faces, image_size=(28, 24)))
    >>> verification.images.shape
    (12, 28, 24, 3)
    """
    images, labels = uint8_faces(source)
    people = {str(c): [str(i) for i in np.flatnonzero(labels == c)] for c in np.unique(labels)}
    folds = min(10, len(people) // 2)
    listed = draw_pairs(people, pairs_per_fold, folds, seed, where=source.describe())
    names, left, right = listed.images()
    faces = images[np.array(names).astype(int)]
    return Verification(faces, left, right, listed.is_same, listed.folds, **options)
