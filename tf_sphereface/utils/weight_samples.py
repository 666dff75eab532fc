"""A few numbers of a model's weights, by which changed weights are told from those of before."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_NUMBERS = 64  # of a weight


def some_weights(model: keras.Model) -> list[NDArray[Any]]:
    """Return copies of the first numbers of a few weights: the first, middle and last ones.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [part.shape for part in some_weights(model)]
    [(8,), (2,)]
    """
    variables = model.trainable_variables
    chosen = {0, len(variables) // 2, len(variables) - 1} if variables else set()
    flat = [tf.reshape(tf.convert_to_tensor(variables[i].value), [-1]) for i in sorted(chosen)]
    return [np.array(values[:_NUMBERS]) for values in flat]
