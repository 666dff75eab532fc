"""Images whose label is in doubt, by class centres or by the other images of the person."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.data import likeness
from tf_sphereface.utils.checks import check_number, error

MAX_ANGLE = 75.0  # degrees, of the paper
_BLOCK = 65_536  # images whose centres are gathered at a time


@dataclasses.dataclass(frozen=True)
class DoubtfulLabel:
    """An image that may be of another person than its label says.

    Attributes:
        position: of the image in the arrays.
        label: its class.
        angle: to the dominant centre of its class, or to the mean of the others, in degrees.
        center: the nearest centre of its class, from 0.
        dominant: the centre that most images of its class are nearest to.

    Example:

    >>> DoubtfulLabel(position=2, label=0, angle=87.1, center=1, dominant=0).reason(max_angle=90)
    "87.1° to its person's main centre, nearer to centre 1 than to centre 0"
    """

    position: int
    label: int
    angle: float
    center: int
    dominant: int

    def reason(self, max_angle: float = MAX_ANGLE) -> str:
        """Say why it is in doubt."""
        parts = [f"{self.angle:.1f}° to its person's main centre"]
        if self.angle > max_angle:
            parts[0] += f", above {max_angle:g}°"
        if self.center != self.dominant:
            parts.append(f"nearer to centre {self.center} than to centre {self.dominant}")
        return ", ".join(parts)


def doubtful_labels(
    embeddings: ArrayLike,
    labels: ArrayLike,
    centers: ArrayLike | None = None,
    max_angle: float = MAX_ANGLE,
) -> list[DoubtfulLabel]:
    """List images that lie far from the dominant centre of their class.

    An image is listed where its nearest centre is not the dominant one of its class, or where its
    angle to that is above `max_angle`. With one centre a class the angle decides alone.

    Args:
        embeddings: (n, d), of any length above 0.
        labels: integers (n,), in [0, num_classes).
        centers: (num_classes, centers_per_class, d), of any length above 0. None: for each image
            the mean of the class's other embeddings, brought to length 1 before; an image alone in
            its class is not listed.
        max_angle: degrees, in [0, 180).

    Returns:
        The doubtful images, the largest angle first.

    Raises:
        ValueError: shapes or labels do not fit, or an embedding is not finite.

    Source: Deng, Guo, Liu, Gong, Zafeiriou, "Sub-center ArcFace", ECCV 2020, section 3.4: those
    above 75 degrees are dropped.

    Example:

    >>> centers = [[[1.0, 0.0], [0.0, 1.0]]]          # one person, two centres
    >>> faces = [[2.0, 0.0], [3.0, 0.1], [0.1, 2.0]]
    >>> [(d.position, d.center, round(d.angle)) for d in doubtful_labels(faces, [0, 0, 0], centers)]
    [(2, 1, 87)]
    >>> [d.position for d in doubtful_labels([*faces, [4.0, 0.2]], [0, 0, 0, 0])]
    [2]
    """
    check_number("max_angle", max_angle, 0.0, 180.0)
    vectors, labels = np.asarray(embeddings), np.asarray(labels)
    given = None if centers is None else np.asarray(centers)
    fits = vectors.ndim == 2 and (
        given is None or (given.ndim == 3 and given.shape[2] == vectors.shape[1])
    )
    if not fits:
        shapes = f"{vectors.shape} and {None if given is None else given.shape}"
        raise ValueError(
            "Embeddings (n, d) and centers (num_classes, centers_per_class, d) are expected. "
            f"Received: shapes {shapes}"
        )
    classes = np.max(labels, initial=-1) + 1 if given is None else len(given)
    if labels.shape != vectors.shape[:1] or np.any((labels < 0) | (labels >= classes)):
        raise error("labels", f"be {len(vectors)} integers in [0, {classes})", labels)
    if not np.all(np.isfinite(vectors)):
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"Argument `embeddings` must be finite. Received: row {bad} is not")
    if given is None:
        cosines = _cosines_to_others(vectors, labels, int(classes))
    else:
        cosines = _own_cosines(vectors, labels, given)
    nearest = cosines.argmax(axis=1)
    counts = np.zeros((classes, cosines.shape[1]), np.int64)
    np.add.at(counts, (labels, nearest), 1)
    dominant = counts.argmax(axis=1)[labels]
    cosine = np.take_along_axis(cosines, dominant[:, None], axis=1)[:, 0]
    angles = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    doubtful = np.flatnonzero((nearest != dominant) | (angles > max_angle))
    ordered = doubtful[np.argsort(-angles[doubtful], kind="stable")]
    return [
        DoubtfulLabel(int(i), int(labels[i]), float(angles[i]), int(nearest[i]), int(dominant[i]))
        for i in ordered
    ]


def _own_cosines(
    vectors: NDArray[np.floating], labels: NDArray[np.integer], centers: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the cosines to the centres of each image's own class, (n, centers_per_class)."""
    width = centers.shape[2]
    units = likeness.unit(centers.reshape(-1, width)).reshape(centers.shape)
    cosines = np.empty((len(vectors), centers.shape[1]))
    for begin in range(0, len(vectors), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        cosines[part] = np.einsum("nd,nkd->nk", likeness.unit(vectors[part]), units[labels[part]])
    return cosines


def _cosines_to_others(
    vectors: NDArray[np.floating], labels: NDArray[np.integer], classes: int
) -> NDArray[np.float64]:
    """Return the cosine to the mean of the class's other embeddings, (n, 1); 1 without others."""
    parts = [slice(begin, begin + _BLOCK) for begin in range(0, len(vectors), _BLOCK)]
    sums = np.zeros((classes, vectors.shape[1]))
    for part in parts:
        np.add.at(sums, labels[part], likeness.unit(vectors[part]))
    alone = np.bincount(labels, minlength=classes) == 1
    cosines = np.empty((len(vectors), 1))
    for part in parts:
        units = likeness.unit(vectors[part])
        others = sums[labels[part]] - units
        lengths = np.linalg.norm(others, axis=1)
        products = np.einsum("nd,nd->n", units, others) / np.where(lengths > 0, lengths, 1.0)
        cosines[part, 0] = np.where(alone[labels[part]], 1.0, products)
    return cosines
