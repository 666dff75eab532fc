"""The places of five points in an aligned face."""

from __future__ import annotations

import numpy as np

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
