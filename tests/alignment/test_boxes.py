"""The pyramid, and boxes against slower ways to say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_sphereface.alignment.boxes import WINDOW, Level, paint, proposals, pyramid, square, suppress


@given(
    height=st.integers(12, 700),
    width=st.integers(12, 700),
    min_face=st.floats(20.0, 90.0),
)
@settings(max_examples=60, deadline=None)
def test_levels_lie_side_by_side_on_the_canvas(height, width, min_face):
    levels, canvas = pyramid(height, width, min_face)
    used = np.zeros(canvas, int)
    for top, left, rows, columns in levels:
        assert top % 2 == left % 2 == 0  # the network looks at every second pixel
        assert min(rows, columns) >= WINDOW
        assert top + rows <= canvas[0]
        assert left + columns <= canvas[1]
        used[top : top + rows, left : left + columns] += 1
    assert used.max(initial=0) <= 1
    # one level more would be smaller than the window
    smallest = min(height, width) * WINDOW / min_face * 0.709 ** len(levels)
    assert smallest < WINDOW
    assert bool(levels) == (min(height, width) >= min_face)


def test_canvas_holds_the_image_in_each_size():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    levels = [Level(0, 0, 60, 90), Level(60, 2, 12, 18)]
    canvas = paint(image, levels, (72, 90))
    np.testing.assert_array_equal(canvas[:60], image)
    # area averaging keeps the mean, to the rounding of a pixel
    assert canvas[60:, 2:20].mean() == pytest.approx(image.mean(), abs=1.0)
    assert (canvas[60:, 20:] == 127).all()


def test_proposals_are_windows_of_the_image():
    scores, offsets = np.zeros((30, 30), np.float32), np.zeros((30, 30, 4), np.float32)
    scores[10 + 3, 5 + 4], offsets[10 + 3, 5 + 4] = 0.9, (-0.5, 0, 0.5, 0)
    scores[0, 0] = 0.9  # of another level
    level = Level(20, 10, 40, 40)
    boxes, found = proposals(scores, offsets, level, (80, 160), 0.6)
    assert found.tolist() == [pytest.approx(0.9)]
    # column 4, row 3: pixel (8, 6) of the level; the image is 4 times as wide and 2 times as high
    np.testing.assert_allclose(boxes, [[(8 - 6) * 4, 6 * 2, (8 + 12 + 6) * 4, (6 + 12) * 2]])


def slow_suppress(boxes, scores, threshold, of_smaller):
    """Non-maximum suppression, box by box."""

    def share(a, b):
        common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
            0.0, min(a[3], b[3]) - max(a[1], b[1])
        )
        first, second = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        return common / (min(first, second) if of_smaller else first + second - common)

    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(share(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("of_smaller", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_is_that_of_the_book(threshold, of_smaller):
    rng = np.random.default_rng(1)
    for count in (0, 1, 2, 50):
        corner = rng.uniform(0, 40, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], axis=1)
        scores = rng.uniform(size=count)
        found = suppress(boxes, scores, threshold, of_smaller=of_smaller)
        assert found.tolist() == slow_suppress(boxes, scores, threshold, of_smaller)


def test_suppression_of_noise_stays_small():
    """A picture of noise has more candidates than can be compared with each other."""
    boxes = np.tile(np.arange(5000.0)[:, None] * 20, 4) + np.array([0, 0, 10, 10])
    assert len(suppress(boxes, np.linspace(0.6, 1, 5000), 0.5)) == 1000


def test_squares_keep_the_centre():
    boxes = square(np.array([[0.0, 0, 10, 20], [4, 4, 8, 6]]))
    np.testing.assert_array_equal(boxes, [[-5, 0, 15, 20], [4, 3, 8, 7]])
