"""Pictures at the size that is asked for, and on disk; and where unseen people begin."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data._geometry import HEIGHT, WIDTH

UNSEEN = 1_000_000  # where people to verify on begin: nobody trains on as many

Images = NDArray[np.uint8]
Size = tuple[int, int]


def write_jpeg(path: Path, picture: Images, quality: int) -> None:
    """Write a picture as JPEG, under a temporary name first."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    )
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    temporary = path.with_name(f".{path.name}.part")  # renamed, but not synced one by one
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def resized(picture: Images, size: Size) -> Images:
    """Return a picture at another size, averaged down or interpolated."""
    height, width = size
    if picture.shape[:2] == size:
        return picture
    shrinks = height <= HEIGHT and width <= WIDTH
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
