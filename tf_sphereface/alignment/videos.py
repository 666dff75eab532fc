"""Take frames out of video files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_integer

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


def read_frames(
    path: str | os.PathLike[str], every: int = 1, wanted: Callable[[int], bool] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield each `every`-th frame of a video, from the first one on.

    Frames are decoded one after the other, because jumping is not exact in most formats; those in
    between are not brought to RGB.

    Args:
        path: a video file that OpenCV reads.
        every: how many frames lie between two that are taken, plus one; at least 1.
        wanted: says whether the frame of this number is needed; all by default.

    Yields:
        The frame's number, from 0, and the frame: uint8 RGB (height, width, 3), upright.

    Raises:
        ValueError: `every` is below 1, or the file is no video that can be read; the message names
            it. A video that breaks off yields the frames before.
    """
    check_integer("every", every, 1)
    video = cv2.VideoCapture(os.fspath(path))
    try:
        if not video.isOpened():
            raise ValueError(f"{os.fspath(path)}: not a video that can be read")
        number = 0
        while video.grab():
            if number % every == 0 and (wanted is None or wanted(number)):
                good, frame = video.retrieve()
                if not good:
                    break
                yield number, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            number += 1
        if number == 0:
            raise ValueError(f"{os.fspath(path)}: a video without a frame that can be read")
    finally:
        video.release()


def count_frames(path: str | os.PathLike[str], every: int = 1) -> int:
    """Return how many frames `read_frames` will yield, as far as the file says; 0 if it does not.

    Args:
        path: a video file.
        every: as for `read_frames`.
    """
    video = cv2.VideoCapture(os.fspath(path))
    try:
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    finally:
        video.release()
    return max(0, -(-frames // every))
