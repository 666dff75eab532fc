"""Plausibility of five points: whether they can be those of a face, and why they cannot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.template import TEMPLATES

LEAST_LIKENESS = 0.65  # LFW's 13,232 faces: 0.85 and more; a full profile: about 0.75
STEEPEST = 120.0  # degrees in the plane
_READINGS = {
    "left and right are swapped, or the image is mirrored": [1, 0, 2, 4, 3],
    "left and right eye are swapped": [1, 0, 2, 3, 4],
    "left and right mouth corner are swapped": [0, 1, 2, 4, 3],
    "the nose comes last, in another order": [0, 1, 4, 2, 3],
    "the nose comes first, in another order": [1, 2, 0, 3, 4],
    "the mouth comes first, in another order, or y counts upwards": [3, 4, 2, 0, 1],
}
_COLUMNS = "the columns are in the order x1 ... x5 y1 ... y5, not x1 y1 ... x5 y5"


def check_face(points: np.ndarray, image_size: tuple[int, ...] | None = None) -> str | None:
    """Say why five points cannot be those of a face; None where they can.

    Faces in profile and turned by less than 120 degrees in the plane can.

    Args:
        points: (5, 2), x and y in pixels, as `align` takes them.
        image_size: (height, width) of the image; None leaves out whether they lie in it.

    Example:

    >>> points = np.array([[107, 108], [145, 107], [127, 140], [108, 156], [143, 156]])
    >>> check_face(points), check_face(points[[1, 0, 2, 4, 3]])
    (None, 'left and right are swapped, or the image is mirrored')
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2):
        return f"five x, y pairs are needed, and these are of shape {points.shape}"
    (fault,) = find_faults(points[None])
    if fault is None and image_size is not None and is_outside(points, image_size):
        height, width = image_size[:2]
        return f"they lie outside the image of {height}x{width} pixels, and belong to another size"
    return fault


def find_faults(points: NDArray[np.float64]) -> list[str | None]:
    """Say for each face of points (n, 5, 2) why it cannot be one."""
    finite = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    points = np.where(finite[:, None, None], points, 0.0)
    spread = np.sqrt(points.var(axis=1).sum(axis=1))
    fit = _fit(points)
    likeness, angle = np.abs(fit), np.degrees(np.abs(np.angle(fit)))
    readings = {cause: points[:, order] for cause, order in _READINGS.items()}
    readings[_COLUMNS] = points.reshape(-1, 2, 5).transpose(0, 2, 1)
    causes, fits = list(readings), np.stack([_fit(other) for other in readings.values()])
    upright = np.degrees(np.abs(np.angle(fits))) < 60
    others = np.where(upright, np.abs(fits), 0.0)
    best = others.argmax(axis=0)
    most = others.max(axis=0)
    better = np.asarray((most > 0.9) & (most > likeness + 0.12))
    sideways = np.abs(_fit(points[..., ::-1]))
    faults: list[str | None] = []
    for i in range(len(points)):
        fault = None
        if not finite[i]:
            fault = "they are not finite numbers"
        elif spread[i] < 1e-6 * max(1.0, float(np.abs(points[i]).max())):
            fault = "they are all in one place, as where no face was found"
        elif np.abs(points[i]).max() <= 2.0:
            fault = "they are fractions of the image from 0 to 1, not pixels"
        elif better[i]:
            fault = causes[best[i]]
        elif likeness[i] < LEAST_LIKENESS:
            fault = "they do not lie as those of a face do"
            if sideways[i] > 0.9:
                fault = "x and y are in the other order, or the image is mirrored or upside down"
        elif angle[i] > STEEPEST:
            fault = "the eyes lie below the mouth: the image is upside down, or the order reversed"
        faults.append(fault)
    return faults


def _fit(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return how well each face of points (n, 5, 2) fits the template, complex (n,).

    The modulus is the correlation after the best similarity transform, 0 to 1; 1 - its square is
    the share of the variance that is left over. The argument is the rotation.
    """
    template = TEMPLATES[112, 96] @ np.array([1, 1j])
    template = (template - template.mean()) / (np.std(template) * np.sqrt(5))
    values = points @ np.array([1, 1j])
    values = values - values.mean(axis=1, keepdims=True)
    norms = np.sqrt((np.abs(values) ** 2).sum(axis=1))
    return np.asarray(values @ template.conj() / np.maximum(norms, 1e-12))


def is_outside(points: NDArray[np.float64], image_size: tuple[int, ...]) -> bool:
    """Tell whether the middle of the points lies outside an image of (height, width)."""
    x, y = points.mean(axis=0)
    return bool(x < 0 or x > image_size[1] or y < 0 or y > image_size[0])


def count_hint(numbers: int) -> str:
    """Say what to do where there are more points than five."""
    if numbers in (14, 15):
        return f". The {numbers - 10} numbers more may be a box{' and its score' * (numbers - 14)}"
    if numbers <= 10 or numbers % 2:
        return ""
    five = "the mean of each eye's, the nose's tip and the mouth's corners"
    return f". Of {numbers // 2} points take five: {five}"
