"""A few numbers of a model's weights, by which changed weights are told from those of before."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_NUMBERS = 64  # of a weight
Samples = list[tuple[keras.Variable, NDArray[Any]]]
"""Weights, and the first numbers of each as they were."""


def some_weights(model: keras.Model) -> Samples:
    """Return a few of the weights that are trained now: the first, middle and last ones.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [numbers.shape for _, numbers in some_weights(model)]
    [(8,), (2,)]
    """
    variables = model.trainable_variables
    chosen = {0, len(variables) // 2, len(variables) - 1} if variables else set()
    return [(variables[i], _numbers(variables[i])) for i in sorted(chosen)]


def are_unchanged(samples: Samples) -> bool:
    """Tell whether these weights hold what they held, whichever are trained by now.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> samples = some_weights(model)
    >>> model.trainable = False
    >>> are_unchanged(samples)
    True
    """
    return all(np.array_equal(_numbers(variable), numbers) for variable, numbers in samples)


def _numbers(variable: keras.Variable) -> NDArray[Any]:
    return np.array(tf.reshape(tf.convert_to_tensor(variable.value), [-1])[:_NUMBERS])
