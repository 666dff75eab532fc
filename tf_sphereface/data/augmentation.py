"""Augmentation of a batch as TensorFlow ops: a pure function of (images, seed, step)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data import degradation, warping
from tf_sphereface.data.options import Augment, PixelType
from tf_sphereface.utils.exit_guard import guarded

SHIFT = 1.0 / 24.0  # largest shift, as a fraction of the height (4 of 112 pixels)
BRIGHTNESS = 0.16  # largest offset, in units of (x - 127.5) / 128
CONTRAST = 0.25  # largest relative change
ERASE_PROBABILITY = 0.3
ERASE_SIDE = 0.4  # longest side of what is erased, as a fraction of the image's


def normalize(images: tf.Tensor) -> tf.Tensor:
    """Map pixels 0..255, uint8 or float of any shape, to float32 `(x - 127.5) / 128`.

    Example:

    >>> import numpy as np
    >>> normalize(np.array([0, 255], np.uint8)).numpy().tolist()
    [-0.99609375, 0.99609375]
    """
    return (tf.cast(images, tf.float32) - 127.5) * (1.0 / 128.0)  # to the bit as by a division


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of a global batch a worker holds: `count` of `total`, from `first` on.

    All random numbers are drawn for the global batch and cut, so that each image gets the same ones
    however the batch is shared out.
    """

    first: tf.Tensor | int
    count: tf.Tensor | int
    total: tf.Tensor | int

    def uniform(
        self,
        seed: tf.Tensor,
        lead: tuple[int, ...] = (),
        trail: tuple[int, ...] = (),
        low: float = 0,
        high: float = 1,
        dtype: tf.DType = tf.float32,
    ) -> tf.Tensor:
        """Draw (*lead, count, *trail) from [low, high)."""
        draw = tf.random.stateless_uniform([*lead, self.total, *trail], seed, low, high, dtype)
        places = self.first + tf.range(self.count)
        return tf.gather(draw, places, axis=len(lead))


def augment_batch(
    images: tf.Tensor,
    seed: tf.Tensor,
    kind: Augment,
    part: Part,
    *,
    dtype: PixelType = "float32",
) -> tf.Tensor:
    """Augment a batch, uint8 (batch, height, width, 3), and normalise it to float32.

    With `dtype="uint8"` it is not normalised; `"strong"`, which leaves 0..255, needs float32.

    `"mirror"` does nothing here: the images come mirrored where `drawn_mirror` says so.
    `"quality"` makes some 60 % of such images poor, as `degradation.degrade` says; `"warp"` turns,
    moves, scales and lights them, as `warping.warp` says. `"strong"` mirrors images by the same
    draw, shifts by up to 1/24 of the height (edges repeat), changes contrast by up to 25 % and
    brightness by up to 0.16, and blanks a rectangle in 30 % of them. `seed`, int64 (2,), is for
    this batch alone, in which `part` says where the images stand.
    """
    finish = normalize if dtype == "float32" else tf.identity
    if kind in ("none", "mirror"):
        return finish(images)
    if kind == "quality":
        draws = part.uniform(_fold(seed, 4), (degradation.DRAWS,))
        return finish(_by_numpy(degradation.degrade, images, draws))
    if kind == "warp":
        seeds = part.uniform(_fold(seed, 5), low=0, high=tf.int64.max, dtype=tf.int64)
        return finish(_by_numpy(warping.warp, images, seeds))
    moved = _shift(images, drawn_mirror(seed, part), _fold(seed, 1), part)
    pixels = _jitter(normalize(moved), _fold(seed, 2), part)
    return tf.ensure_shape(_erase(pixels, _fold(seed, 3), part), images.shape)


def drawn_mirror(seed: tf.Tensor, part: Part) -> tf.Tensor:
    """Draw which images are flipped left to right, with probability 1/2: booleans (count,)."""
    return part.uniform(_fold(seed, 0)) < 0.5


def _by_numpy(
    change: Callable[[NDArray[np.uint8], NDArray[Any]], NDArray[np.uint8]],
    images: tf.Tensor,
    draws: tf.Tensor,
) -> tf.Tensor:
    """Change images, uint8, by a function of them and of random numbers that runs in Python."""

    def changed(images: NDArray[np.uint8], draws: NDArray[Any]) -> NDArray[np.uint8]:
        return guarded(lambda: change(images, draws), at_the_end=lambda: images)

    return tf.ensure_shape(tf.numpy_function(changed, [images, draws], tf.uint8), images.shape)


def _fold(seed: tf.Tensor, data: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, data)


def _shift(images: tf.Tensor, mirror: tf.Tensor, seed: tf.Tensor, part: Part) -> tf.Tensor:
    """Shift and mirror by two gathers; beyond the edge the last row or column repeats."""
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    limit = max(round(SHIFT * height), 1)
    offset = part.uniform(seed, (2,), (1,), -limit, limit + 1, tf.int32)
    rows = tf.clip_by_value(tf.range(height)[None] + offset[0], 0, height - 1)
    columns = tf.clip_by_value(tf.range(width)[None] + offset[1], 0, width - 1)
    columns = tf.where(mirror[:, None], width - 1 - columns, columns)
    first = tf.range(batch)[:, None]
    flat = tf.reshape(images, [-1, width * 3])
    images = tf.reshape(tf.gather(flat, first * height + rows), tf.shape(images))
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _jitter(pixels: tf.Tensor, seed: tf.Tensor, part: Part) -> tf.Tensor:
    """Scale about the middle grey and offset, one draw per image."""
    draw = part.uniform(seed, (2,), (1, 1, 1), -1.0, 1.0)
    return pixels * (1.0 + CONTRAST * draw[0]) + BRIGHTNESS * draw[1]


def _erase(pixels: tf.Tensor, seed: tf.Tensor, part: Part) -> tf.Tensor:
    """Set a rectangle to the middle grey in some images."""
    height, width = pixels.shape[1], pixels.shape[2]
    draw = part.uniform(seed, (5,), (1,))
    chosen = draw[0] < ERASE_PROBABILITY

    def inside(length: int, centre: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        place = (tf.range(length, dtype=tf.float32)[None] + 0.5) / float(length)
        return tf.abs(place - centre) < 0.5 * ERASE_SIDE * (0.3 + 0.7 * size)

    rows = tf.logical_and(inside(height, draw[1], draw[2]), chosen)
    columns = inside(width, draw[3], draw[4])
    mask = tf.logical_and(rows[:, :, None], columns[:, None, :])
    return tf.where(mask[..., None], tf.zeros([], pixels.dtype), pixels)
