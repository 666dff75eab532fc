"""Decode image files to faces of one size; find the damaged ones before training does."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.alignment.template import add_columns, missing_columns
from tf_sphereface.data.folder_index import FolderIndex, SkipReport, select
from tf_sphereface.utils import hardware
from tf_sphereface.utils.messages import ProgressCallback

logger = logging.getLogger("tf_sphereface")
_CHUNK = 512
_SAID = set[str]()  # sizes into which images of another shape are brought


def lack_of_room(count: int, image_size: tuple[int, int]) -> str | None:
    """Say what `count` decoded faces lack of memory, and what to do; None where they have room."""
    lack = hardware.lack_of_memory(count * 3 * image_size[0] * image_size[1])
    return lack and (
        f"{count:,} decoded faces of {path_size(image_size)} take {lack}: pack them "
        '(tf_sphereface-data pack), or decode them at each use (cache="none", --cache none)'
    )


def room_for(count: int, image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an array (count, height, width, 3) to fill, or raise `ValueError` for no memory."""
    lack = lack_of_room(count, image_size)
    if lack is not None:
        raise ValueError(lack)
    return np.empty((count, *image_size, 3), np.uint8)


def read_bytes(path: Path) -> bytes:
    """Return a file's content; `ValueError`, the reason alone, says that it may not be read."""
    try:
        with open(path, "rb", buffering=0) as handle:
            return handle.read()
    except FileNotFoundError:
        raise ValueError("missing") from None
    except PermissionError:
        raise ValueError("no permission to read it") from None


def resize(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 (height, width, 3): area averaging if nothing grows, else bilinear.

    A square image loses, or one of 112x96's shape gets, the columns between the two templates. Any
    other shape is squeezed or stretched. The log says so, once for each size.
    """
    shape = (image.shape[0], image.shape[1])
    columns = missing_columns(shape, image_size)
    if columns != 0:
        _say_shape(shape, image_size, columns)
        image = add_columns(image, columns or 0)
    smaller = image.shape[0] >= image_size[0] and image.shape[1] >= image_size[1]
    # The operations under tf.image.resize, which takes ten times as long around them; a size that
    # is a tuple, not an array, would take half as long again.
    size = np.array(image_size, np.int32)
    arguments = {"images": image[np.newaxis], "size": size, "align_corners": False}
    with tf.device("/cpu:0"):
        if smaller:
            resized = tf.raw_ops.ResizeArea(**arguments)
        else:
            resized = tf.raw_ops.ResizeBilinear(**arguments, half_pixel_centers=True)
    return np.asarray(resized.numpy()[0] + np.float32(0.5), np.uint8)


def _say_shape(size: tuple[int, int], wanted: tuple[int, int], columns: int | None) -> None:
    if path_size(wanted) in _SAID:  # of images of many sizes one is enough
        return
    _SAID.add(path_size(wanted))
    if columns is None:
        done = (
            f"squeezed or stretched into {path_size(wanted)}: faces that are aligned for that size "
            "are of another shape. Align these for it, or take their own size"
        )
    elif columns < 0:
        done = f"cut by {-columns} columns at each side for {path_size(wanted)}, as the templates"
    else:
        done = (
            f"padded by {columns} black columns at each side for {path_size(wanted)}. Align the "
            "photographs for that size, where you have them"
        )
    # no warning of Python's: it is found out in the threads of a pipeline
    logger.warning("images, such as one of %s, are %s", path_size(size), done)


def fit(
    image: NDArray[np.uint8], image_size: tuple[int, int], allow_resize: bool, name: object
) -> NDArray[np.uint8]:
    """Return an image at `image_size`, (height, width), or raise `ValueError` that names it."""
    if image.shape[:2] == image_size:
        return image
    if allow_resize:
        return resize(image, image_size)
    raise ValueError(
        f"{name} is {path_size(image.shape)} pixels, expected {path_size(image_size)} "
        "(height x width). Align the faces first (tf_sphereface-align), or pass resize=True "
        "(--resize)"
    )


def decode_face(
    encoded: bytes, path: Path, image_size: tuple[int, int], allow_resize: bool
) -> NDArray[np.uint8]:
    """Return the face in a file's content, uint8 RGB (height, width, 3) of `image_size`."""
    try:
        image = decode_image(encoded)
    except ValueError as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from None
    return fit(image, image_size, allow_resize, path)


def _try_face(
    path: Path, image_size: tuple[int, int], allow_resize: bool
) -> NDArray[np.uint8] | str:
    """Return the face in a file, or why it cannot be decoded; another size is an error."""
    try:
        image = decode_image(read_bytes(path))
    except (OSError, ValueError) as error:
        return str(error)
    return fit(image, image_size, allow_resize, path)


def path_size(size: tuple[int, ...]) -> str:
    """Format (height, width) for messages."""
    return f"{size[0]}x{size[1]}"


def read_all(
    index: FolderIndex,
    image_size: tuple[int, int],
    *,
    allow_resize: bool,
    strict: bool,
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
    store: Callable[[int, NDArray[np.uint8]], None] | None = None,
    workers: int | None = None,
) -> FolderIndex:
    """Decode every file once, in parallel, and return the index without the damaged ones.

    Labels and names stay as they were: a class keeps its number, even if all its files are damaged.

    `store` is called with (position among the good files, uint8 RGB image), in order; the other
    arguments are those of `check_folder`.
    """

    def read(path: Path) -> NDArray[np.uint8] | str:
        image = _try_face(path, image_size, allow_resize)
        if strict and isinstance(image, str):
            raise ValueError(f"{path} cannot be decoded: {image}")
        return image

    good = np.zeros(len(index), bool)
    kept, first = 0, ""
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for start in range(0, len(index), _CHUNK):
            piece = index.paths[start : start + _CHUNK]
            for offset, image in enumerate(pool.map(read, piece)):
                if isinstance(image, str):
                    first = first or f"{piece[offset]}: {image}"
                    if report is not None:
                        report.add(piece[offset], image)
                    continue
                if store is not None:
                    store(kept, image)
                good[start + offset] = True
                kept += 1
            if progress is not None:
                progress(start + len(piece), len(index))
    if not good.any():
        text = (
            f"none of the {len(index):,} files in {index.root} can be decoded. The first: {first}"
        )
        raise ValueError(text)
    return dataclasses.replace(
        index,
        paths=select(index.paths, good),
        labels=index.labels[good],
        checked=True,
        image_size=image_size,
    )
