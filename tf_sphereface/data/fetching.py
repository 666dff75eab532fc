"""Graph functions that fetch batches of images: from arrays, and from encoded files.

Python does little for an image and lets its lock go meanwhile: the threads of a pipeline would else
hold it in turns, and the loop of `fit`, which needs it at each step, would wait for them. So arrays
are gathered by one call for a batch, and plain JPEGs are decoded by TensorFlow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.options import Size
from tf_sphereface.utils.exit_guard import guarded

Fetch = Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]
"""From positions, int64 (batch,), and which images to flip left to right, booleans (batch,) or
None, to uint8 RGB images (batch, height, width, 3)."""


def fetch_array(images: NDArray[np.uint8]) -> Fetch:
    """Return what fetches from an array, which is not copied, or from one mapped from a file.

    As a captured tensor tf.data would copy it, three times.
    """
    images = np.asarray(images)  # of a mapped file a plain view
    size = images.shape[1:3]

    def read(positions: NDArray[np.int64], mirror: NDArray[np.bool_]) -> NDArray[np.uint8]:
        batch = aligned_bytes((len(positions), *size, 3))
        if images.flags.c_contiguous:  # of others `take` copies all first
            np.take(images, positions, axis=0, out=batch, mode="clip")
        else:
            for place, position in enumerate(positions.tolist()):
                batch[place] = images[position]
        return flip(batch, mirror)

    def fetch(positions: tf.Tensor, mirror: tf.Tensor | None) -> tf.Tensor:
        if mirror is None:
            mirror = tf.zeros_like(positions, tf.bool)
        batch = tf.numpy_function(_guarded(read, size), [positions, mirror], tf.uint8)
        return tf.ensure_shape(batch, (positions.shape[0], *size, 3))

    return fetch


def fetch_encoded(
    read: Callable[[tf.Tensor], tf.Tensor],
    decode: Callable[[bytes, int], NDArray[np.uint8]],
    size: Size,
) -> Fetch:
    """Return what fetches encoded images.

    Args:
        read: gives the encoded images, strings (batch,), at some positions; a graph function.
        decode: gives the image of `size` of such bytes, uint8 RGB, and of their position, for the
            message of its error. It is called for all but plain JPEGs of `size` like one that was
            decoded before: TensorFlow has the same pixels of those, and no error.
        size: (height, width) of the images.
    """

    def decode_others(
        encoded: NDArray[np.object_], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return each image's row in the other output, -1 for plain JPEGs, and these images."""
        headers = [plain_jpeg_header(data) for data in encoded]
        others = [i for i, header in enumerate(headers) if _decoded.get(header) != size]
        rows = np.full(len(encoded), -1, np.int32)
        rows[others] = np.arange(len(others), dtype=np.int32)
        images = aligned_bytes((len(others), *size, 3))
        for row, place in enumerate(others):
            images[row] = decode(encoded[place], int(positions[place]))
            _remember(headers[place])
        return rows, images

    def nothing(count: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        return np.arange(count, dtype=np.int32), np.zeros((count, *size, 3), np.uint8)

    def fetch(positions: tf.Tensor, mirror: tf.Tensor | None) -> tf.Tensor:
        encoded = read(positions)
        rows, others = tf.numpy_function(
            lambda data, places: guarded(
                lambda: decode_others(data, places), at_the_end=lambda: nothing(len(data))
            ),
            [encoded, positions],
            [tf.int32, tf.uint8],
        )
        rows = tf.ensure_shape(rows, positions.shape)
        others = tf.ensure_shape(others, (None, *size, 3))

        def one(image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            data, row = image
            return tf.cond(row < 0, lambda: _decode_jpeg(data, size), lambda: others[row])

        def mixed() -> tf.Tensor:
            one_image = tf.TensorSpec((*size, 3), tf.uint8)
            return tf.map_fn(
                one, (encoded, rows), fn_output_signature=one_image, parallel_iterations=1
            )

        batch = tf.cond(tf.reduce_all(rows >= 0), lambda: others, mixed)
        batch = tf.ensure_shape(batch, (positions.shape[0], *size, 3))
        if mirror is None:
            return batch
        flipped = tf.numpy_function(_guarded(_flipped, size), [batch, mirror], tf.uint8)
        return tf.ensure_shape(flipped, batch.shape)

    return fetch


def read_files(paths: Callable[[NDArray[np.int64]], Iterable[Path]]) -> Callable[..., tf.Tensor]:
    """Return what reads files, of which `paths` gives the paths at some positions."""

    def names(positions: NDArray[np.int64]) -> list[bytes]:
        return [_name(path) for path in paths(positions)]

    named = read_strings(names, at_the_end=os.fsencode(os.devnull))
    return lambda positions: tf.map_fn(
        tf.io.read_file,
        named(positions),
        fn_output_signature=tf.TensorSpec((), tf.string),
        parallel_iterations=1,
    )


def _name(path: Path) -> bytes:
    """Return a path for TensorFlow, which takes `link/..` for the folder that the link is in."""
    name = os.fsencode(path)
    return os.path.realpath(name) if b".." in name else name


def read_strings(
    read: Callable[[NDArray[np.int64]], Iterable[bytes]], at_the_end: bytes = b""
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function that gives strings at some positions as a graph function, (batch,)."""

    def strings(positions: NDArray[np.int64]) -> NDArray[np.object_]:
        return guarded(
            lambda: np.array(list(read(positions)), object),
            at_the_end=lambda: np.full(len(positions), at_the_end, object),
        )

    return lambda positions: tf.ensure_shape(
        tf.numpy_function(strings, [positions], tf.string), positions.shape
    )


def flip(batch: NDArray[np.uint8], mirror: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Flip images of a batch (n, height, width, 3) left to right in place, and return it."""
    places = np.flatnonzero(mirror)
    if len(places):
        rows = batch[places]
        flat = rows.reshape(-1, *rows.shape[2:])
        cv2.flip(flat, 1, flat)  # all at once, in place: new memory would take four times as long
        batch[places] = rows
    return batch


def _flipped(batch: NDArray[np.uint8], mirror: NDArray[np.bool_]) -> NDArray[np.uint8]:
    copy = aligned_bytes(batch.shape)
    np.copyto(copy, batch)
    return flip(copy, mirror)


def _guarded(work: Callable[..., NDArray[np.uint8]], size: Size) -> Callable[..., Any]:
    """Return a function for TensorFlow's threads: zeros for what is asked for at the end."""
    return lambda first, *rest: guarded(
        lambda: work(first, *rest),
        at_the_end=lambda: np.zeros((len(first), *size, 3), np.uint8),
    )


_ALIGNMENT = 64  # of TensorFlow's tensors, in bytes


def aligned_bytes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array of any values which TensorFlow takes over as a tensor without a copy."""
    count = math.prod(shape)
    buffer = np.empty(count + _ALIGNMENT, np.uint8)
    first = -buffer.ctypes.data % _ALIGNMENT
    return buffer[first : first + count].reshape(shape)


_BEGIN, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_FRAME = 0xC0
_KNOWN = frozenset((0xC4, 0xDB, 0xE0, 0xFE))  # tables, JFIF's header and a comment
_LONGEST = 4096  # bytes of a header that is looked at
_MOST = 4096  # headers that are remembered
_decoded: dict[bytes | None, tuple[int, int]] = {}
"""What stood before the scan of a JPEG that OpenCV has decoded -> its height and width."""


def plain_jpeg_header(data: bytes) -> bytes | None:
    """Return what stands before the scan of a JPEG that is decoded alike everywhere, or None.

    That is a whole baseline JPEG of one or three components and one scan, without Exif, profiles
    and restart marks. What is damaged in its scan is decoded to the same pixels by TensorFlow and
    OpenCV, whereas of others one may refuse what the other takes. Files of one writer share the
    header, but for those with Huffman tables of their own.

    Example:

    >>> encoded = cv2.imencode(".jpg", np.zeros((4, 3, 3), np.uint8))[1].tobytes()
    >>> jpeg_size(plain_jpeg_header(encoded)), plain_jpeg_header(encoded[:-2])
    ((4, 3), None)
    """
    scan = data.find(_SCAN, 0, _LONGEST)
    if scan < 0 or data[-2:] != _END:
        return None
    first = scan + 2 + _number(data, scan + 2)
    # A mark inside the scan would be one more 0xff than those that are escaped and the end's.
    if data.count(b"\xff", first) != data.count(b"\xff\x00", first) + 1:
        return None
    header = data[:first]
    return header if header in _decoded or jpeg_size(header) is not None else None


def jpeg_size(header: bytes) -> tuple[int, int] | None:
    """Return (height, width) by a plain JPEG's header; None for what is not one."""
    if header[:2] != _BEGIN:
        return None
    place, size = 2, None
    while header[place : place + 2] != _SCAN:
        if place + 9 >= len(header) or header[place] != 0xFF:
            return None
        marker = header[place + 1]
        if marker == _FRAME and header[place + 4] == 8 and header[place + 9] in (1, 3):
            size = _number(header, place + 5), _number(header, place + 7)
        elif marker not in _KNOWN:
            return None
        place += 2 + _number(header, place + 2)
    return size if place + 2 + _number(header, place + 2) == len(header) else None


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 2], "big")


def _remember(header: bytes | None) -> None:
    """Note that OpenCV has decoded an image with this header: its tables are not damaged."""
    if header is not None:
        size = jpeg_size(header)
        if len(_decoded) >= _MOST:
            _decoded.clear()
        if size is not None:
            _decoded[header] = size


def _decode_jpeg(data: tf.Tensor, size: Size) -> tf.Tensor:
    """Return the pixels that OpenCV has for a plain JPEG, where it is damaged too."""
    image = tf.io.decode_jpeg(
        data,
        channels=3,
        dct_method="INTEGER_ACCURATE",
        try_recover_truncated=True,
        acceptable_fraction=0.0,
    )
    return tf.ensure_shape(image, (*size, 3))
