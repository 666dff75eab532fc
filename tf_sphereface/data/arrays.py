"""Checks of faces and labels that are given as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 2**31 - 1


def check_arrays(source: Any, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return images, uint8 (n, height, width, 3), and labels, int32 (n,), or raise ValueError."""
    if len(source) != 2:
        raise ValueError(f"source must be (images, labels). Received: {len(source)} items")
    images, labels = np.asarray(source[0]), np.asarray(source[1])
    if images.dtype != np.uint8 or images.shape[1:] != (*size, 3):
        raise ValueError(
            f"source images must be uint8 (n, {size[0]}, {size[1]}, 3), RGB. "
            f"Received: {images.dtype} {images.shape}{_image_hint(images, size)}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1 and len(images) == len(labels):
        labels = labels[:, 0]  # as Keras' own data sets have them
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"source labels must be integers of shape ({len(images)},), one for each image. "
            f"Received: {labels.dtype} {labels.shape}{_label_hint(labels, len(images))}"
        )
    if len(labels) and (labels.min() < 0 or labels.max() > _LARGEST):
        raise ValueError(
            "source labels must be numbers of classes, from 0 on. "
            f"Received: from {labels.min()} to {labels.max()}{_RENUMBER}"
        )
    return images, labels.astype(np.int32)


_RENUMBER = ": number them by names, labels = np.unique(labels, return_inverse=True)"


def _image_hint(images: NDArray[Any], size: tuple[int, int]) -> str:
    """Return what the images may be instead, and how to mend it."""
    if images.ndim == 1 and images.dtype.kind in "iu":
        return ", which may be the labels: images come first"
    if images.dtype == object:
        return ": images of several sizes. Align or resize them to one"
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        return ": channels come last here, images.transpose(0, 2, 3, 1)"
    if images.ndim == 3:
        return ": grey images, or a single one. Three channels: np.stack([images] * 3, axis=-1)"
    if images.ndim == 4 and images.shape[3] == 4:
        return ": a fourth channel, images[..., :3] is without it"
    if images.shape[1:] != (*size, 3):
        shape = images.shape[1:3]
        return f": pass image_size={shape}, or resize them" if images.ndim == 4 else ""
    return _range_hint(images)


def _range_hint(images: NDArray[Any]) -> str:
    """Return how pixels of another type become uint8, by the range that they have."""
    if not images.size or images.dtype.kind not in "fiu":
        return ""
    low, high = float(images.min()), float(images.max())
    told = f", from {low:.4g} to {high:.4g}"
    if not np.isfinite([low, high]).all():
        return f"{told}: some are not finite"
    if low >= 0 and high <= 1 and images.dtype.kind == "f":
        return f"{told}: np.round(images * 255).astype(np.uint8)"
    if low >= -1.01 and high <= 1.01 and images.dtype.kind == "f":
        return f"{told}: np.round(images * 128 + 127.5).clip(0, 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"{told}: np.round(images).astype(np.uint8)"
    return f"{told}: pixels are from 0 to 255"


def _label_hint(labels: NDArray[Any], count: int) -> str:
    """Return what the labels may be instead, and how to mend it."""
    if labels.ndim == 2 and len(labels) == count:
        return ": one-hot labels? np.argmax(labels, axis=1)"
    if labels.ndim == 1 and len(labels) != count:
        return f", for {count} images"
    if labels.dtype.kind in "USO":
        return f": names{_RENUMBER}"
    if labels.dtype.kind == "f":
        return ": if they are whole numbers, labels.astype(np.int32)"
    return ""
