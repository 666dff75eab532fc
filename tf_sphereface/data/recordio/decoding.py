"""The decoding of every image of a RecordIO file, to find those that cannot be."""

from __future__ import annotations

import collections
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.decoding import path_size
from tf_sphereface.utils.messages import ProgressCallback

_CHUNK, _CALL = 2048, 64  # images between two reports, and images that a thread takes at a time


class EncodedImages(Protocol):
    """Images that are read by their positions."""

    def __len__(self) -> int:
        """Return how many there are."""

    def read(self, positions: NDArray[np.integer]) -> NDArray[np.object_]:
        """Return encoded images, objects (batch,) of bytes."""


def decode_all(images: EncodedImages, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Decode every image once, in parallel.

    `progress` is called with (images, in all).

    Returns:
        `sizes`: "HEIGHTxWIDTH" -> number of images; `broken`: position -> why it cannot be decoded.
    """
    sizes: collections.Counter[str] = collections.Counter()
    broken: dict[int, str] = {}

    def decode(begin: int) -> list[tuple[int, str, str]]:
        """Return position, size and reason of some images."""
        positions = np.arange(begin, min(begin + _CALL, len(images)))
        return [
            (p, *_size(e)) for p, e in zip(positions.tolist(), images.read(positions), strict=True)
        ]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for begin in range(0, len(images), _CHUNK):
            end = min(begin + _CHUNK, len(images))
            for found in pool.map(decode, range(begin, end, _CALL)):
                for position, size, reason in found:
                    if reason:
                        broken[position] = reason
                    else:
                        sizes[size] += 1
            if progress is not None:
                progress(end, len(images))
    return {"sizes": dict(sizes), "broken": broken}


def _size(encoded: bytes) -> tuple[str, str]:
    """Return the size of an image, or why there is none."""
    try:
        return path_size(decode_image(encoded).shape), ""
    except ValueError as error:
        return "", str(error)
