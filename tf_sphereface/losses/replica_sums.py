"""Sums over the global batch, for losses whose numbers follow it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops

from tf_sphereface.utils.checks import check_number, error


def global_sum(values: list[Any]) -> list[Any]:
    """Return scalars summed over the replicas that train together; as they are where there is one.

    Example:

    >>> float(global_sum([ops.convert_to_tensor(2.0)])[0])
    2.0
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, values))


def global_moments(values: Any) -> tuple[Any, Any, Any]:
    """Return number, mean and squared deviations' sum of `(batch,)` values over the global batch.

    No gradient goes through them. The mean is taken off before the squares, so that nothing
    cancels.

    Example:

    >>> [float(v) for v in global_moments(ops.convert_to_tensor([1.0, 3.0]))]
    [2.0, 2.0, 2.0]
    """
    values = ops.cast(ops.stop_gradient(values), "float32")
    count, total = global_sum([ops.sum(ops.ones_like(values)), ops.sum(values)])
    mean = total / ops.maximum(count, 1.0)
    (squares,) = global_sum([ops.sum(ops.square(values - mean))])
    return count, mean, squares


def moving_average(old: Any, new: Any, weight: float, known: Any) -> Any:
    """Return `weight * new + (1 - weight) * old`; `old` where `known` is false or it is not finite.

    Example:

    >>> [float(moving_average(10.0, value, 0.5, True)) for value in (20.0, float("nan"))]
    [15.0, 10.0]
    """
    average = weight * ops.cast(new, "float32") + (1.0 - weight) * old
    return ops.where(ops.logical_and(known, ops.isfinite(average)), average, old)


def check_weight(name: str, value: Any) -> float:
    """Return the weight of a moving average, or raise ValueError where it is not in (0, 1]."""
    if check_number(name, value, 0.0, open_low=True) > 1:
        raise error(name, "be a number in (0, 1]", value)
    return float(value)
