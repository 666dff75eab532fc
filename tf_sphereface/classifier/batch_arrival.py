"""What a training step saw of its batch: the moment at which it was there, and raw pixels."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_sphereface.utils.keras_private import is_deterministic

_TIME, _LOW, _HIGH = 0, 1, 2


class BatchArrival:
    """A clock that the training step sets when its batch is there.

    `fit` fetches the batch inside the function that also computes the step, where no callback can
    see it. The time is kept in a table and not in a variable: a strategy mirrors variables, and
    a model saves them.
    """

    def __init__(self) -> None:
        with tf.init_scope(), tf.device("/cpu:0"):
            self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float64, 0.0)

    def record(self, batch: Any) -> Any:
        """Keep the time, inside the step, and return `batch`.

        On a CPU, what computes on the tensors that are returned begins after the time was kept:
        else one with few threads takes the time when it has computed much of the step. Where there
        is a GPU they are those that were given: it would wait for the step before.
        """
        tensors = [part for part in keras.tree.flatten(batch) if tf.is_tensor(part)]
        if is_deterministic():  # TensorFlow then refuses to tell the time
            return batch
        with tf.control_dependencies(tensors), tf.device("/cpu:0"):
            kept = self._table.insert(tf.constant(_TIME, tf.int64), tf.timestamp())
        if tf.config.list_physical_devices("GPU"):
            return batch
        with tf.control_dependencies([kept]):
            return keras.tree.map_structure(
                lambda part: tf.identity(part) if tf.is_tensor(part) else part, batch
            )

    @property
    def seconds(self) -> float:
        """When the newest batch was there, as `time.time()` has it; 0 where it is not known.

        That is so before the first one, and where TensorFlow's operations are deterministic.
        """
        return float(self._table.lookup(tf.constant(_TIME, tf.int64)))

    def record_range(self, images: Any) -> None:
        """Keep the least and the largest value of a batch's first image, inside the step."""
        first = tf.cast(images[:1], tf.float64)
        values = [tf.reduce_min(first), tf.reduce_max(first)]
        with tf.device("/cpu:0"):
            self._table.insert(tf.constant([_LOW, _HIGH], tf.int64), tf.stack(values))

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and largest value of the newest batch's first image; zeros before the first."""
        low, high = self._table.lookup(tf.constant([_LOW, _HIGH], tf.int64)).numpy()
        return float(low), float(high)
