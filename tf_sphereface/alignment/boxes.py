"""Face boxes: the layout of the image pyramid, proposals, suppression of overlaps, squares."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 12  # the proposal network's input, in pixels
STRIDE = 2

Array = NDArray[np.float64]


class Level(NamedTuple):
    """One size of the image, and its place on the canvas."""

    top: int
    left: int
    height: int
    width: int


def pyramid(height: int, width: int, min_face: float) -> tuple[list[Level], tuple[int, int]]:
    """Lay out all sizes of an image on one canvas, so that one call of a network sees them all.

    On the first level faces of `min_face` pixels have the size of the network's window; each
    further level is 0.709 times as large (half the area), while the window fits. Levels start at
    even pixels, because the network has a stride of 2. Returns the levels, none if the image is too
    small, and (height, width) of the canvas.

    Example:

    >>> levels, canvas = pyramid(250, 250, 20)
    >>> len(levels), levels[0], canvas
    (8, Level(top=0, left=0, height=150, width=150), (370, 150))
    """
    levels: list[Level] = []
    scale = WINDOW / min_face
    top = left = shelf = 0
    limit = _even(max(WINDOW, round(width * scale)))
    while min(height, width) * scale >= WINDOW:
        rows, columns = round(height * scale), round(width * scale)
        if left + columns > limit:
            top, left, shelf = top + shelf, 0, 0
        levels.append(Level(top, left, rows, columns))
        left, shelf = left + _even(columns), max(shelf, _even(rows))
        scale *= 0.709
    return levels, (top + shelf, limit)


def paint(image: NDArray[np.uint8], levels: list[Level], canvas: tuple[int, int]) -> NDArray:
    """Return the canvas, uint8 (height, width, 3), with the image in every size."""
    painted = np.full((*canvas, 3), 127, np.uint8)
    for top, left, height, width in levels:
        painted[top : top + height, left : left + width] = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA
        )
    return painted


def proposals(
    scores: NDArray[np.float32],
    offsets: NDArray[np.float32],
    level: Level,
    size: tuple[int, int],
    threshold: float,
) -> tuple[Array, Array]:
    """Return the boxes (n, 4), x1, y1, x2, y2 in pixels of the image, and scores (n,) of one level.

    `scores` (h, w) and `offsets` (h, w, 4) are of the whole canvas, `size` is (height, width) of
    the image. Windows that straddle two levels are not read.
    """
    top, left = level.top // STRIDE, level.left // STRIDE
    rows = (level.height - WINDOW) // STRIDE + 1
    columns = (level.width - WINDOW) // STRIDE + 1
    window_scores = scores[top : top + rows, left : left + columns]
    i, j = np.nonzero(window_scores > threshold)
    corner = STRIDE * np.stack([j, i], axis=1)
    windows = np.concatenate([corner, corner + WINDOW], axis=1)
    boxes = windows + WINDOW * offsets[top + i, left + j].astype(np.float64)
    across, down = size[1] / level.width, size[0] / level.height
    return boxes * np.array([across, down, across, down]), window_scores[i, j].astype(np.float64)


def suppress(boxes: Array, scores: Array, threshold: float, *, of_smaller: bool = False) -> NDArray:
    """Return the indices that greedy non-maximum suppression keeps, best first.

    Two boxes (x1, y1, x2, y2) may share `threshold` of their union, or, with `of_smaller`, of the
    smaller one. Only the 1,000 best boxes are looked at.

    Example:

    >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], float)
    >>> suppress(boxes, np.array([0.8, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")[:1000]
    x1, y1, x2, y2 = boxes[order].T
    area = (x2 - x1) * (y2 - y1)
    across = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    down = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    common = np.maximum(across, 0.0) * np.maximum(down, 0.0)
    whole = np.minimum(area[:, None], area) if of_smaller else area[:, None] + area - common
    overlaps = common > threshold * whole
    alive = np.ones(len(order), bool)
    kept = []
    for place, index in enumerate(order):
        if alive[place]:
            kept.append(index)
            alive &= ~overlaps[place]
    return np.array(kept, int)


def square(boxes: Array) -> Array:
    """Return the squares around the same centres with the boxes' longer sides."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _even(length: int) -> int:
    return length + length % 2
