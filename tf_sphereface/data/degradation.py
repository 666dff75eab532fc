"""Poor pictures made of good ones: small, blurred, compressed, gray and cropped faces."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import error

CHOICES = {"crop": 0.2, "gray": 0.1, "blur": 0.2, "small": 0.2, "jpeg": 0.2}
"""How a face may be made poor, in the order of a camera, and how often each is drawn."""
DRAWS = 8  # numbers that a face's degradation takes: one for each choice, and three for sizes

SMALLEST = 0.2  # of a face's sides, before it is scaled up again
BLUR = (0.5, 2.0)  # deviation in pixels, of a face 112 pixels high
QUALITY = (10, 60)  # of a JPEG
CROP = 0.5  # smallest share of each side that stays
FILL = 128  # what lies outside of a crop: the middle of the range
_UP = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def degrade(images: NDArray[np.uint8], draws: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Make faces poor by random numbers.

    A face is cropped in place (what lies outside turns gray), loses its colours, is blurred, scaled
    down to a fifth at most and up again, and compressed as a JPEG, each of `CHOICES` with its own
    probability and strength; some 60 % of the faces have one of them or more.

    Args:
        images: uint8 RGB (n, height, width, 3); they are left as they are.
        draws: (`DRAWS`, n), uniform in [0, 1).

    Returns:
        uint8 of the same shape.

    Example:

    >>> images = np.random.default_rng(0).integers(0, 256, (2, 56, 48, 3), dtype="uint8")
    >>> good = np.full((DRAWS, 2), 0.99)                          # nothing is drawn
    >>> bool((degrade(images, good) == images).all())
    True
    """
    if draws.shape != (DRAWS, len(images)):
        raise error("draws", f"be of shape ({DRAWS}, {len(images)})", draws.shape)
    poor = np.array(images)
    for place, numbers in enumerate(np.asarray(draws, np.float64).T):
        face = poor[place]
        for (name, probability), number in zip(CHOICES.items(), numbers, strict=False):
            if number < probability:  # what is left of the number says how strongly
                face = degrade_by(face, name, number / probability, numbers[len(CHOICES) :])
        poor[place] = face
    return poor


def degrade_by(
    face: NDArray[np.uint8], name: str, strength: float, draws: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Make one face poor in one way.

    Args:
        face: uint8 RGB (height, width, 3).
        name: one of `CHOICES`.
        strength: in [0, 1]: from hardly seen to the most that `degrade` does.
        draws: three numbers in [0, 1): where a crop lies, and how a small face is scaled up.
    """
    height, width = face.shape[:2]
    if name == "crop":
        share = 1.0 - strength * (1.0 - CROP)
        size = [max(round(share * side), 1) for side in (height, width)]
        top, left = (
            int((side - kept) * draw)
            for side, kept, draw in zip((height, width), size, draws, strict=False)
        )
        cropped = np.full_like(face, FILL)
        inside = slice(top, top + size[0]), slice(left, left + size[1])
        cropped[inside] = face[inside]
        return cropped
    if name == "gray":
        return np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if name == "blur":
        sigma = (BLUR[0] + strength * (BLUR[1] - BLUR[0])) * height / 112
        return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)
    if name == "small":
        share = 1.0 - strength * (1.0 - SMALLEST)
        size = [max(round(share * side), 1) for side in (width, height)]
        down = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        up = _UP[int(draws[2] * len(_UP))]
        return np.asarray(cv2.resize(down, (width, height), interpolation=up), np.uint8)
    quality = round(QUALITY[1] - strength * (QUALITY[1] - QUALITY[0]))
    _, file = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
