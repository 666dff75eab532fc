"""Decode image files; find the damaged ones before training does."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.folder_index import FolderIndex, SkipReport, keep

ProgressCallback = Callable[[int, int], None]

_CHUNK = 512


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decode the bytes of a JPEG, PNG or BMP to uint8 RGB (height, width, 3).

    JPEG goes through libjpeg's accurate DCT, as in OpenCV, and a truncated file is an error
    (OpenCV fills the rest with grey and says nothing).
    """
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(
            contents, channels=3, try_recover_truncated=False, dct_method="INTEGER_ACCURATE"
        ),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )


def resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Resize uint8 (height, width, 3): area averaging if nothing grows, else bilinear."""
    shape = tf.shape(image)
    pixels = image[tf.newaxis]
    smaller = tf.logical_and(shape[0] >= image_size[0], shape[1] >= image_size[1])
    resized = tf.cond(
        smaller,
        lambda: tf.image.resize(pixels, image_size, method="area"),
        lambda: tf.image.resize(pixels, image_size, method="bilinear"),
    )
    return tf.cast(tf.clip_by_value(tf.floor(resized[0] + 0.5), 0.0, 255.0), tf.uint8)


def make_fitter(
    image_size: tuple[int, int], allow_resize: bool
) -> Callable[[tf.Tensor, tf.Tensor | str], tf.Tensor]:
    """Return a graph function from encoded bytes to uint8 RGB (height, width, 3) of `image_size`.

    Its second argument names the image. It raises `tf.errors.InvalidArgumentError` for bytes that
    cannot be decoded, and with the name and both sizes for an image of another size unless it may
    be resized.
    """
    expected = f"an image of a size other than {path_size(image_size)}:"

    def fit(contents: tf.Tensor, name: tf.Tensor | str) -> tf.Tensor:
        image = decode(contents)
        shape = tf.shape(image)[:2]
        fits = tf.reduce_all(shape == image_size)
        if allow_resize:
            image = tf.cond(fits, lambda: image, lambda: resize(image, image_size))
        else:
            with tf.control_dependencies([tf.Assert(fits, [expected, name, shape])]):
                image = tf.identity(image)
        return tf.ensure_shape(image, (*image_size, 3))

    return fit


def make_reader(
    image_size: tuple[int, int], allow_resize: bool
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function from a path to uint8 RGB (height, width, 3) of `image_size`.

    It raises as that of `make_fitter`, and `tf.errors.NotFoundError` for a missing file.
    """
    fit = make_fitter(image_size, allow_resize)
    return lambda path: fit(tf.io.read_file(path), path)


def path_size(size: tuple[int, ...] | NDArray[np.int32]) -> str:
    """Format (height, width) for messages."""
    return f"{int(size[0])}x{int(size[1])}"


def read_all(
    index: FolderIndex,
    image_size: tuple[int, int],
    *,
    allow_resize: bool,
    strict: bool,
    report: SkipReport | None,
    progress: ProgressCallback | None,
    store: Callable[[int, NDArray[np.uint8]], None] | None,
    workers: int | None = None,
) -> FolderIndex:
    """Decode every file once, in parallel, and leave the damaged ones out.

    Args:
        index: the files.
        image_size: (height, width) that they must have.
        allow_resize: resize others rather than raise.
        strict: raise at the first damaged file rather than skip it.
        report: where skipped files are noted.
        progress: called with (done, total) now and then.
        store: called with (position among the kept files, uint8 RGB image), in order.
        workers: threads; the machine's cores by default.

    Returns:
        The index without the damaged files.

    Raises:
        ValueError: a damaged file and `strict`; a file of another size; or nothing is left.
    """

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def load(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode(tf.io.read_file(path))
        shape = tf.shape(image)[:2]
        if allow_resize:
            fits = tf.reduce_all(shape == image_size)
            image = tf.cond(fits, lambda: image, lambda: resize(image, image_size))
        return image, shape

    def attempt(path: Path) -> NDArray[np.uint8] | str:
        try:
            image, shape = load(tf.constant(os.fspath(path)))
        except tf.errors.OpError as error:
            return why_unreadable(path, error)
        if not allow_resize and tuple(shape.numpy()) != image_size:
            raise ValueError(
                f"{path} is {path_size(shape.numpy())} pixels, expected {path_size(image_size)} "
                "(height x width). Align the faces first, or pass resize=True (--resize)"
            )
        return np.asarray(image)

    good = np.zeros(len(index), bool)
    kept = 0
    with tf.device("/cpu:0"), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for start in range(0, len(index), _CHUNK):
            piece = index.paths[start : start + _CHUNK]
            for offset, image in enumerate(pool.map(attempt, piece)):
                path = piece[offset]
                if isinstance(image, str):
                    if strict:
                        raise ValueError(f"{path} cannot be decoded: {image}")
                    if report is not None:
                        report.add(path, image)
                    continue
                if store is not None:
                    store(kept, image)
                good[start + offset] = True
                kept += 1
            if progress is not None:
                progress(start + len(piece), len(index))
    return keep(index, good, image_size)


def why_unreadable(path: Path, error: tf.errors.OpError) -> str:
    """Say in a few words why TensorFlow could not decode a file."""
    if isinstance(error, tf.errors.NotFoundError):
        return "missing"
    if isinstance(error, tf.errors.PermissionDeniedError):
        return "no permission to read it"
    try:
        if path.stat().st_size == 0:
            return "empty file"
        with path.open("rb") as handle:
            jpeg = handle.read(3) == b"\xff\xd8\xff"
    except OSError as problem:
        return str(problem)
    return "truncated or corrupt JPEG" if jpeg else "not a readable JPEG, PNG or BMP"
