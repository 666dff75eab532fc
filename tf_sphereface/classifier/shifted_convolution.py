"""A depthwise 3x3 convolution as nine products of shifted maps, and its gradient likewise.

A compiler fuses the nine products, and those of the gradient, into one pass each, where it would
have to look for a kernel for a grouped convolution, and for two more for its gradient. Sums are in
float32 whatever the type of the map.

No step takes it yet: it is there so that a GPU can be measured with it and without
(docs/results/gpu.md, `benchmarks/gpu.py --hlo --depthwise shifted`). That decides whether it gets a
place in `fast_layers.STAND_INS` or goes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


@functools.cache
def convolution(stride: int, same: bool) -> Any:
    """Return the convolution of a map (batch, height, width, channels) by (3, 3, channels)."""

    @tf.custom_gradient
    def convolve(x: Any, kernel: Any) -> tuple[Any, Callable[..., tuple[Any, Any]]]:
        sides = [_side(int(side), stride, same) for side in x.shape[1:3]]

        def gradient(upstream: Any) -> tuple[Any, Any]:
            dy = tf.cast(upstream, "float32")
            to_kernel = [_channel_sums(part * dy) for part, _ in _shifts(x, sides)]
            to_kernel = tf.reshape(tf.stack(to_kernel), kernel.shape)
            to_x = _sum_of_flipped_shifts(dy, tf.cast(kernel, "float32"), sides)
            return tf.cast(to_x, x.dtype), tf.cast(to_kernel, kernel.dtype)

        taps = tf.cast(kernel, "float32")
        products = [part * taps[tap] for part, tap in _shifts(x, sides)]
        return tf.cast(functools.reduce(tf.add, products), x.dtype), gradient

    return convolve


class _Side(NamedTuple):
    """Sizes of one side of a map: of the input, its padding and the output, and the stride."""

    size: int
    before: int
    after: int
    output: int
    stride: int


def _side(size: int, stride: int, same: bool) -> _Side:
    if not same:
        return _Side(size, 0, 0, (size - 3) // stride + 1, stride)
    output = -(-size // stride)
    padding = max((output - 1) * stride + 3 - size, 0)
    return _Side(size, padding // 2, padding - padding // 2, output, stride)


def _shifts(x: Any, sides: list[_Side]) -> list[tuple[Any, tuple[int, int]]]:
    """Return, for each value of the filter, the part of the map that it meets, in float32."""
    x = tf.cast(x, "float32")
    if any(side.before or side.after for side in sides):
        x = tf.pad(x, [[0, 0], *([side.before, side.after] for side in sides), [0, 0]])

    def places(start: int, side: _Side) -> slice:
        return slice(start, start + (side.output - 1) * side.stride + 1, side.stride)

    rows, columns = sides
    return [
        (x[:, places(i, rows), places(j, columns)], (i, j))
        for i, j in itertools.product(range(3), repeat=2)
    ]


def _sum_of_flipped_shifts(dy: Any, kernel: Any, sides: list[_Side]) -> Any:
    """Return the gradient to the map.

    A pixel of the padded map met the filter's value i where i = pixel - stride * output. So every
    stride-th pixel has the same values: those are computed together, then the pixels interleaved.
    """
    stride = sides[0].stride
    reach = 2 // stride  # outputs before a pixel's own that have met it
    counts = [-(-(side.before + side.size) // stride) for side in sides]
    missing = [max(n - side.output, 0) for n, side in zip(counts, sides, strict=True)]
    dy = tf.pad(dy, [[0, 0], *([reach, after] for after in missing), [0, 0]])

    def met(i: int, j: int) -> Any:
        top, left = reach - i // stride, reach - j // stride
        return dy[:, top : top + counts[0], left : left + counts[1]] * kernel[i, j]

    phases = []
    for a, b in itertools.product(range(stride), repeat=2):
        taps = itertools.product(range(a, 3, stride), range(b, 3, stride))
        phases.append(functools.reduce(tf.add, [met(i, j) for i, j in taps]))
    padded = phases[0]
    if stride > 1:
        channels = dy.shape[-1]
        grid = tf.stack([tf.stack(phases[:2], axis=3), tf.stack(phases[2:], axis=3)], axis=2)
        padded = tf.reshape(grid, [-1, stride * counts[0], stride * counts[1], channels])
    (top, height), (left, width) = ((side.before, side.size) for side in sides)
    return padded[:, top : top + height, left : left + width]


def _channel_sums(x: Any) -> Any:
    return tf.reduce_sum(x, axis=[0, 1, 2])
