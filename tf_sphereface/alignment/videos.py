"""Frames of video files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_integer

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".divx", ".mkv", ".webm", ".ogv"),
    *(".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".mts", ".m2ts", ".m2t", ".ts", ".mod", ".tod"),
    *(".wmv", ".asf", ".flv", ".f4v", ".mxf", ".dv"),
)
_MATROSKA, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_LEAST_READ = 0.9  # of the frames: some cameras list frames that they dropped
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


def _open(path: str | os.PathLike[str]) -> cv2.VideoCapture:
    """Open a video. Its name goes as bytes, which OpenCV takes as well: it may be no UTF-8."""
    name: Any = os.fsencode(path)
    return cv2.VideoCapture(name)


def read_frames(
    path: str | os.PathLike[str], every: int = 1, wanted: Callable[[int], bool] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield number and frame, uint8 RGB (height, width, 3), of each `every`-th frame from 0 on.

    Frames are decoded in order, because jumping is not exact in most formats; `wanted` says which
    numbers are needed. A file that is no readable video is a ValueError that names it; a video that
    is cut off, or damaged in the middle, yields what can be read, then raises one.
    """
    check_integer("every", every, 1)
    video = _open(path)
    try:
        if not video.isOpened():
            what = "a video that is cut off" if is_cut_off(path) else "not a video"
            raise ValueError(f"{os.fspath(path)}: {what}: it cannot be read")
        number = lost = 0
        while video.grab():
            if number % every == 0 and (wanted is None or wanted(number)):
                good, frame = video.retrieve()
                if good:
                    yield number, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                lost += not good
            number += 1
        if number == lost:
            raise ValueError(f"{os.fspath(path)}: a video without a frame that can be read")
        if is_cut_off(path):
            raise ValueError(
                f"{os.fspath(path)}: the video is cut off or damaged; only {number:,} frames of it "
                "could be read, and were taken"
            )
        stated = video.get(cv2.CAP_PROP_FRAME_COUNT) if _states_frames(path) else number
        if number - lost < _LEAST_READ * stated:
            raise ValueError(
                f"{os.fspath(path)}: {number - lost:,} of its {stated:,.0f} frames could be read, "
                "and were taken: the video is damaged, or was trimmed without encoding it anew"
            )
    finally:
        video.release()


def _states_frames(path: str | os.PathLike[str]) -> bool:
    """Tell whether a container lists its frames; of others the count is one of length and rate."""
    with open(path, "rb") as handle:
        begin = handle.read(8)
    return begin[:4] == b"RIFF" or begin[4:8] in _MP4_BOXES


def count_frames(path: str | os.PathLike[str], every: int = 1) -> int:
    """Return how many frames `read_frames` will yield, as the file says; 0 if it does not."""
    video = _open(path)
    try:
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    finally:
        video.release()
    return max(0, -(-frames // every))


def is_cut_off(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is shorter than its container says: AVI, MP4, Matroska, WMV, FLV, TS.

    MPEG program streams say nothing of their length, and a broken recording may have none.
    """
    end = os.path.getsize(path)
    with open(path, "rb") as handle:
        begin = handle.read(64)

        def integer(place: int, size: int, order: Literal["big", "little"] = "big") -> int:
            handle.seek(place)
            return int.from_bytes(handle.read(size), order)

        if begin[:4] == b"RIFF":
            return integer(4, 4, "little") + 8 > end + 1  # the last byte may be padding
        if begin[4:8] in _MP4_BOXES:
            place = 0
            while place + 8 <= end:
                size = integer(place, 4)
                step = integer(place + 8, 8) if size == 1 else size or end - place
                if step < 8:  # a length that was never filled in
                    return True
                place += step
            return place > end
        if begin[:16] == _ASF:
            header = integer(16, 8, "little")
            return header + integer(header + 16, 8, "little") > end
        if begin[:3] == b"FLV":  # it ends with the size of its last tag
            size = integer(end - 4, 4)
            return end < size + 17 or integer(end - 4 - size + 1, 3) + 11 != size
        if begin[:4] == _MATROSKA:
            return _matroska_end(integer) > end
        packet = {0: 188, 4: 192}.get(begin.find(b"G"))  # of a transport stream, plain or on a disc
        synchronous = packet is not None and integer(begin.find(b"G") + packet, 1) == 0x47
        return synchronous and packet is not None and end % packet != 0


def _matroska_end(integer: Callable[[int, int], int]) -> int:
    """Return where the segment of a Matroska file ends; 0 where it does not say."""

    def size_at(place: int) -> tuple[int, int]:
        first = integer(place, 1)
        width = 9 - first.bit_length()
        value = integer(place, width) & ~(1 << (7 * width))
        return place + width, value if value != (1 << (7 * width)) - 1 else -1

    place, size = size_at(4)
    place += size
    if integer(place, 4).to_bytes(4, "big") != _SEGMENT:
        return 0
    place, size = size_at(place + 4)
    return place + size if size >= 0 else 0
