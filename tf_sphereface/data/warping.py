"""Faces turned, moved, scaled and lit otherwise by chance."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

TURN, SCALE, SHIFT = 6.0, 0.07, 0.027  # deviations: degrees, of the logarithm, of the height
CONTRAST, BRIGHTNESS = 0.15, 15.0  # deviations: of the logarithm, of 255
GRAY = 0.1  # how often a face loses its colours
AS_IT_IS = 0.25  # how often `warp` leaves a face alone: it is such faces that a network meets


def warp(images: NDArray[np.uint8], seeds: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Warp faces, each by random numbers of its own.

    One in four stays as it is. Another one is turned about its middle (deviation 6 degrees), scaled
    (7 %) and moved (2.7 % of its height), its contrast (15 %) and brightness (15 of 255) change,
    and one in ten of them turns gray.

    Args:
        images: uint8 RGB (n, height, width, 3); they are left as they are.
        seeds: (n,), 0 or more.

    Returns:
        uint8 of the same shape.

    Example:

    >>> images = np.full((2, 56, 48, 3), 200, np.uint8)
    >>> warp(images, np.array([3, 4])).shape
    (2, 56, 48, 3)
    """
    warped = np.array(images)
    for place, seed in enumerate(seeds):
        rng = np.random.default_rng(int(seed))
        if rng.random() >= AS_IT_IS:
            warped[place] = to_pixels(warped_by(images[place], rng, cv2.INTER_CUBIC))
    return warped


def warped_by(
    face: NDArray[np.uint8], rng: np.random.Generator, interpolation: int = cv2.INTER_LINEAR
) -> NDArray[np.float32]:
    """Return one face changed as `warp` says, float32 and not yet clipped; the draws are of `rng`.

    A small face keeps its edges by `cv2.INTER_CUBIC` alone.
    """
    height, width = face.shape[:2]
    turn, scale = rng.normal(0, TURN), np.exp(rng.normal(0, SCALE))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    matrix[:, 2] = matrix[:, 2] + rng.normal(0, SHIFT * height, 2)
    border = cv2.BORDER_REFLECT if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(face, matrix, (width, height), flags=interpolation, borderMode=border)
    pixels = moved.astype(np.float32)
    mean = pixels.mean()
    contrast, light = np.exp(rng.normal(0, CONTRAST)), rng.normal(0, BRIGHTNESS)
    pixels = (pixels - mean) * np.float32(contrast) + np.float32(mean + light)
    if rng.random() < GRAY:
        pixels[:] = pixels.mean(axis=2, keepdims=True)
    return pixels


def to_pixels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Round to whole numbers of 0..255."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
