"""A moving average of a network's weights, kept beside the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.utils.checks import check_number


class WeightAverage(keras.callbacks.Callback):
    """Average the weights of a classifier's backbone over its updates (EMA).

    After update t (from 1) each weight's average moves to the weight by `1 - M`, where M is
    `min(momentum, (1 + t) / (10 + t))`: the first weights, which are random, are soon forgotten.
    The statistics of batch normalisation are averaged as well. What does not change, such as a
    frozen weight, is its own average to the bit. An update that is skipped (float16 overflowed)
    does not count.

    The training is not touched: it reads no average. The head has none, as it is no part of the
    embedder. Unlike `use_ema=True` of a Keras optimizer it goes with a sampled head, with frozen
    layers, and with a run that is stopped inside an epoch.

    Args:
        model: with its first weights, or those that it goes on from.
        momentum: in (0, 1), such as 0.999.
        values: the averages to go on from (`arrays()`).

    Raises:
        ValueError: a momentum out of range, or values of another network.

    Example:

    >>> from tf_sphereface.losses import CosFaceLoss
    >>> model = FaceClassifier(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), 3)
    >>> model.compile(loss=CosFaceLoss())
    >>> average = WeightAverage(model, 0.99)
    >>> x, y = np.ones((6, 8), "float32"), np.arange(6) % 3
    >>> history = model.fit(x, y, callbacks=[average], verbose=0)
    >>> [value.shape for value in average.arrays()]
    [(8, 4), (4,)]
    """

    def __init__(
        self, model: FaceClassifier, momentum: float, values: Sequence[NDArray[Any]] = ()
    ) -> None:
        super().__init__()
        self.momentum = check_number("momentum", momentum, 0.0, 1.0, open_low=True)
        self._optimizer = model.optimizer
        self._weights = network_weights(model)
        first = list(values) or [weight.numpy() for weight in self._weights]
        if [np.shape(v) for v in first] != [tuple(w.shape) for w in self._weights]:
            raise ValueError(
                f"Argument `values` must be the averages of the network's {len(self._weights)} "
                f"weights. Received: {len(first)} arrays"
            )
        self._averages = [tf.Variable(value, trainable=False) for value in first]
        self._done = tf.Variable(self._updates(), trainable=False)

    def arrays(self) -> list[NDArray[Any]]:
        """Return the averages, in the order of `network_weights`."""
        return [average.numpy() for average in self._averages]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the averages."""
        self._move()

    def _updates(self) -> Any:
        return tf.cast(tf.convert_to_tensor(self._optimizer.iterations), tf.int64)

    @tf.function
    def _move(self) -> None:
        done = self._updates()
        count = tf.cast(done, tf.float32)
        share = 1.0 - tf.minimum(self.momentum, (1.0 + count) / (10.0 + count))
        share *= tf.cast(done > self._done, tf.float32)
        for average, weight in zip(self._averages, self._weights, strict=True):
            value = tf.convert_to_tensor(weight.value)
            if average.dtype.is_floating:
                average.assign_add(tf.cast(share, average.dtype) * (value - average))
            else:
                average.assign(value)
        self._done.assign(done)


def network_weights(model: FaceClassifier) -> list[keras.Variable]:
    """Return the weights of a classifier's network, without the states of random generators."""
    return [v for v in model.backbone.weights if "seed_generator" not in v.path]
