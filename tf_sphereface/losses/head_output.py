"""The output of the angular head: logits, and beside them what a loss cannot rebuild.

Labels are no input of the model, so a loss sees the head's output alone. It is a table with one row
per example:

    num_classes columns     ||x|| cos(theta_j)
    with a shared bias b    -||x|| (1 + h(b)),   h(b) = (b + sqrt(b^2 + 4)) / 2 > 0
    the last column         -||x||

No logit is below `-||x||`, so neither of the last two can be the largest entry, and the accuracy of
stock Keras is right. `h` maps every b to a positive number, with `b = h - 1 / h`: the bias comes
back with about 1e-6 of float32 error, whatever the length of the embedding.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

NORM_FLOOR = 1e-4
BIAS_MARK = 1.001  # a column below -1.001 ||x|| is no logit: it is the bias
LEFT_OUT = -1e3  # a cosine below this: the class was taken out of an example's loss


def join(logits: Any, norms: Any, shared_bias: Any = None) -> Any:
    """Return the head's output, with norms `(batch, 1)` above 0 and a scalar bias or None.

    Example:

    >>> join(ops.array([[1.0, -0.5]]), ops.array([[2.0]]), 0.0).numpy().tolist()
    [[1.0, -0.5, -4.0, -2.0]]
    """
    if shared_bias is None:
        return ops.concatenate([logits, -norms], axis=-1)
    bias = ops.convert_to_tensor(shared_bias, dtype=logits.dtype)
    root = ops.sqrt(ops.square(bias) + 4.0)
    # (b + root) / 2 cancels where b is negative; 2 / (root - b) is the same number.
    positive = ops.where(bias >= 0, (bias + root) / 2.0, 2.0 / (root + ops.abs(bias)))
    column = -ops.stop_gradient(norms) * (1.0 + positive)
    return ops.concatenate([logits, column, -norms], axis=-1)


def norms_of(outputs: Any) -> Any:
    """Return `||x||`, `(batch,)`."""
    return -outputs[:, -1]


def cosines_of(outputs: Any, num_classes: int) -> Any:
    """Return `cos(theta_j)`, `(batch, num_classes)`.

    An embedding shorter than `NORM_FLOOR` is taken for one of that length, so that its gradient,
    which grows as 1 / ||x||, is bounded.
    """
    return outputs[:, :num_classes] / ops.maximum(norms_of(outputs), NORM_FLOOR)[:, None]


def shared_bias_of(outputs: Any) -> Any:
    """Return the bias of a head that has one, `(batch,)`: the same number for each example.

    The gradient goes to the bias alone, none to the norm. NaN where the head has no bias.

    Example:

    >>> outputs = join(ops.array([[1.0, -0.5]]), ops.array([[2.0]]), -3.0)
    >>> round(float(shared_bias_of(outputs)[0]), 5)
    -3.0
    """
    positive = -outputs[:, -2] / ops.stop_gradient(norms_of(outputs)) - 1.0
    known = positive > 0.0
    positive = ops.where(known, positive, 1.0)
    return or_nan(positive - 1.0 / positive, known)


def or_nan(value: Any, known: Any) -> Any:
    """Return `value` where `known` holds, else NaN, which is computed only there.

    A NaN as a constant would stop a healthy run under `tf.debugging.enable_check_numerics`.

    Example:

    >>> or_nan(ops.array([1.0, 2.0]), ops.array([True, False])).numpy().tolist()
    [1.0, nan]
    """
    failure = ops.stop_gradient(ops.sqrt(ops.where(known, 0.0, -1.0)))
    return ops.where(known, value, 0.0) + ops.cast(failure, value.dtype)


def check_last_column(outputs: Any) -> None:
    """Raise where the last column, -||x||, is positive: this is no output of an angular head.

    A `ValueError` in eager mode, an `InvalidArgumentError` in a graph; XLA drops the check. What is
    not finite, of a run that diverged, is let pass.
    """
    if isinstance(outputs, keras.KerasTensor):
        return
    last = outputs[:, -1]
    positive = tf.reduce_any((last > 0) & tf.math.is_finite(last))
    message = (
        "A loss of tf_sphereface.losses needs the output of tf_sphereface.layers.AngularDense, "
        "whose last column is -||x||. Received: an output whose last column is positive, as of "
        "Dense or softmax. Put AngularDense(num_classes) in place of the last layer, or use a "
        "stock cross-entropy with it."
    )
    if not tf.executing_eagerly():
        tf.debugging.Assert(tf.logical_not(positive), [message])
    elif bool(positive):
        raise ValueError(message)


def has_shared_bias(outputs: Any) -> bool | None:
    """Tell from the values whether a head has a bias; None where none is known or finite."""
    if isinstance(outputs, keras.KerasTensor) or not tf.executing_eagerly():
        return None
    if outputs.shape[0] == 0 or outputs.shape[-1] < 3:
        return None
    table = np.asarray(outputs[:, -2:])
    table = table[np.isfinite(table).all(axis=1) & (table[:, 0] > LEFT_OUT * -table[:, 1])]
    if len(table) == 0:
        return None
    column, minus_norm = table.T
    return bool(np.all(column < BIAS_MARK * minus_norm))
