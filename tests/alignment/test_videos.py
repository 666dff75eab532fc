"""Frames of a video that OpenCV has written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.videos import count_frames, read_frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Twelve frames; the gray value of frame k is 20 k, and red grows to the right."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        frame = np.full((48, 64, 3), 20 * number, np.uint8)
        frame[:, 32:] = (0, 0, 255)  # red, in OpenCV's order
        writer.write(frame)
    writer.release()
    return path


def test_every_fifth_frame(video):
    frames = list(read_frames(video, every=5))
    assert [number for number, _ in frames] == [0, 5, 10]
    assert count_frames(video, 5) == 3
    for number, frame in frames:
        assert frame.shape == (48, 64, 3)
        # Motion JPEG keeps flat colours to a few gray values
        np.testing.assert_allclose(frame[:, :24].mean(), 20 * number, atol=4)
        np.testing.assert_allclose(frame[:, 40:].mean(axis=(0, 1)), (255, 0, 0), atol=6)


def test_frames_that_are_not_wanted(video):
    assert [n for n, _ in read_frames(video, 3, wanted=lambda number: number != 6)] == [0, 3, 9]


def test_what_is_no_video(tmp_path, video):
    (tmp_path / "page.mp4").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.mp4: not a video"):
        list(read_frames(tmp_path / "page.mp4"))
    assert count_frames(tmp_path / "page.mp4") == 0
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        list(read_frames(video, 0))
