"""Frames of video files."""

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
    """Yield number and frame, uint8 RGB (height, width, 3), of each `every`-th frame from 0 on.

    Frames are decoded in order, because jumping is not exact in most formats; `wanted` says which
    numbers are needed. A file that is no readable video is a ValueError that names it; a video that
    breaks off yields the frames before.
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
    """Return how many frames `read_frames` will yield, as the file says; 0 if it does not."""
    video = cv2.VideoCapture(os.fspath(path))
    try:
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    finally:
        video.release()
    return max(0, -(-frames // every))
