"""The places of five points in an aligned face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_POINTS = np.array(
    [
        (30.2946, 51.6963),
        (65.5318, 51.5014),
        (48.0252, 71.7366),
        (33.5493, 92.3655),
        (62.7299, 92.2041),
    ]
)
TEMPLATES: dict[tuple[int, int], np.ndarray] = {
    (112, 96): _POINTS,
    (112, 112): _POINTS + np.array([8.0, 0.0]),
}
"""By (height, width) of the crop: x, y in pixels of the left eye, right eye, nose, left and right
mouth corner, left and right as seen in the image. The authors' numbers, used unchanged although
MATLAB counts pixels from 1: the Python ports of the method do so too, and weights expect it."""
for _template in TEMPLATES.values():
    _template.flags.writeable = False

ORDER = (
    "Expected are x and y of left eye, right eye, nose, left and right mouth corner, left and "
    "right as seen in the image, in pixels"
)

_SQUARE, _NARROW, _NEAR = 1.0, 96 / 112, 0.02  # width over height of the two templates


def missing_columns(size: tuple[int, int], wanted: tuple[int, int]) -> int | None:
    """Return how many columns a face of one template's shape lacks at each side for another's.

    The 112x112 template is the 112x96 one with 8 columns more at each side. Below 0, the face has
    as many too many; 0: sizes of one shape, (height, width); None: of other shapes.
    """
    height, width = size
    whole = height * wanted[1] / wanted[0]
    if abs(whole - width) <= max(1.0, _NEAR * width):
        return 0
    shapes = [
        next((s for s in (_SQUARE, _NARROW) if abs(w / h - s) < _NEAR), None)
        for h, w in (size, wanted)
    ]
    return None if None in shapes else round((whole - width) / 2)


def add_columns(image: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) with black columns at each side; below 0, with fewer."""
    if columns > 0:
        return np.pad(image, ((0, 0), (columns, columns), (0, 0)))
    return np.ascontiguousarray(image[:, -columns:columns]) if columns else image
