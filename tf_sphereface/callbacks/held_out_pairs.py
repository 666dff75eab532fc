"""Verification on faces of people who are kept out of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.callbacks.verification import Verification
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.held_out import uint8_faces
from tf_sphereface.eval import verification
from tf_sphereface.eval.folder import draw_pairs
from tf_sphereface.eval.pairs import Pairs


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
    listed = _drawn(labels, pairs_per_fold, seed, source.describe())
    names, left, right = listed.images()
    faces = images[np.array(names).astype(int)]
    return Verification(faces, left, right, listed.is_same, listed.folds, **options)


def verify_embeddings(
    table: NDArray[np.floating[Any]], source: FaceSource, seed: int = 0, pairs_per_fold: int = 300
) -> tuple[float, int]:
    """Return the accuracy of embeddings on pairs of their faces, a fraction, and how many pairs.

    Args:
        table: (2, n, dim), unit vectors, of the faces of `source` and of their mirror images, such
            as `training.TeacherEmbeddings.table`; the cosine is that of both, concatenated.
        source: the faces.
        seed: of the pairs.
        pairs_per_fold: as of `verify_on`.

    Raises:
        ValueError: too few people, or too few of them with two images.

    Example:

    >>> from tf_sphereface import data
    >>> faces = data.synthetic.training_set(4, 3, size=(28, 24))
    >>> table = np.stack([np.eye(4)[faces[1]]] * 2)  # each person has an axis
    >>> verify_embeddings(table, data.FaceSource(faces, image_size=(28, 24)))
    (1.0, 24)
    """
    listed = _drawn(source.labels, pairs_per_fold, seed, source.describe())
    names, left, right = listed.images()
    rows = np.array(names).astype(int)
    vectors = np.asarray(table[:, np.sort(rows)], np.float32)[:, np.argsort(np.argsort(rows))]
    scores = np.sum(vectors[:, left] * vectors[:, right], axis=(0, 2)) / 2
    result = verification.evaluate(scores, listed.is_same, listed.folds)
    return float(result.accuracy), len(scores)


def _drawn(labels: NDArray[np.int32], pairs_per_fold: int, seed: int, where: str) -> Pairs:
    """Draw pairs of faces, named by their numbers."""
    people = {str(c): [str(i) for i in np.flatnonzero(labels == c)] for c in np.unique(labels)}
    folds = min(10, len(people) // 2)
    return draw_pairs(people, pairs_per_fold, folds, seed, where=where)
