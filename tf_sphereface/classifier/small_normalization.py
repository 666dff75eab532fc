"""Batch normalisation and its gradient as one small XLA function each.

TensorFlow's fused operation brings a map of 16 bits from the order of channels last into that of
channels first and back for each of its passes on a GPU, and the moving averages take ten
operations more. In a MobileFaceNet's step without XLA that was more than half of the GPU's time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@functools.cache
def normalization(epsilon: float, momentum: float, apart: Any, jit: bool) -> Any:
    """Return batch normalisation over all axes of a map but the last.

    It takes the map, scale and offset, and the averages of mean and variance, float32 (channels,)
    each; it returns the normalised map, and what the averages become. `apart` is the map's shape
    and type: a function that all maps shared would be traced too often. `jit`: by XLA.
    """

    @tf.function(jit_compile=jit, autograph=False)
    def forward(
        x: Any, scale: Any, offset: Any, mean_average: Any, variance_average: Any
    ) -> tuple[Any, ...]:
        # One pass: a difference of two means of squares, in which the digits are lost where a mean
        # is much larger than its deviation. The first image's mean is an origin that saves them.
        origin = _channel_mean(tf.cast(x[0], "float32"))
        shifted = tf.cast(x, "float32") - origin
        mean, square = _channel_mean(shifted), _channel_mean(tf.square(shifted))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        inverse = tf.math.rsqrt(variance + epsilon)
        y = (shifted - mean) * (inverse * scale) + offset
        mean += origin
        new_mean = mean_average * momentum + mean * (1.0 - momentum)
        new_variance = variance_average * momentum + variance * (1.0 - momentum)
        return tf.cast(y, x.dtype), new_mean, new_variance, mean, inverse

    @tf.function(jit_compile=jit, autograph=False)
    def backward(x: Any, scale: Any, mean: Any, inverse: Any, upstream: Any) -> tuple[Any, ...]:
        dy = tf.cast(upstream, "float32")
        normalised = (tf.cast(x, "float32") - mean) * inverse
        to_offset, to_scale = _channel_mean(dy), _channel_mean(dy * normalised)
        to_x = (dy - to_offset - normalised * to_scale) * (scale * inverse)
        count = tf.reduce_prod(tf.cast(tf.shape(x)[:-1], "float32"))
        return tf.cast(to_x, x.dtype), to_scale * count, to_offset * count

    @tf.custom_gradient
    def normalise(
        x: Any, scale: Any, offset: Any, mean_average: Any, variance_average: Any
    ) -> tuple[tuple[Any, ...], Callable[..., tuple[Any, ...]]]:
        y, *averages, mean, inverse = forward(x, scale, offset, mean_average, variance_average)

        def gradient(upstream: Any, *_: Any) -> tuple[Any, ...]:
            return *backward(x, scale, mean, inverse, upstream), None, None

        return (y, *averages), gradient

    return normalise


def _channel_mean(x: Any) -> Any:
    return tf.reduce_mean(x, axis=list(range(len(x.shape) - 1)))
