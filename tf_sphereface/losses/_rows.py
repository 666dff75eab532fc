"""What every loss does with a batch: check labels, gather targets, take the cross-entropy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops


def target_entries(logits: Any, labels: Any) -> Any:
    """Gather each row's entry at its label: `(batch, classes), (batch,) -> (batch,)`."""
    safe = ops.clip(ops.cast(labels, "int32"), 0, logits.shape[-1] - 1)
    return ops.take_along_axis(logits, safe[:, None], axis=-1)[:, 0]


def target_cross_entropy(logits: Any, labels: Any, target: Any) -> Any:
    """Compute the cross-entropy of each row with its target logit replaced.

    `-log softmax` is evaluated as `softplus(log sum_{j != y} exp(z_j) - t)`. The target stands
    outside the sum, so neither value nor gradient cancels where the target dominates: at a
    probability of `1 - 1e-12` the gradient is -1e-12 and not 0.

    Args:
        logits: `(batch, num_classes)`; the entries at the labels are not used.
        labels: `(batch,)`, in `[0, num_classes)`.
        target: the logit that stands at the label, `(batch,)`.

    Returns:
        Nats, `(batch,)`; NaN where a label is out of range (inside XLA, where no assertion
        survives, this is what keeps a wrong label from training silently).
    """
    num_classes = logits.shape[-1]
    lowest = np.finfo("float32").min / 4  # finite, so that a single class has a gradient
    others = ops.logsumexp(ops.where(target_mask(labels, num_classes), lowest, logits), axis=-1)
    loss = ops.softplus(others - target)
    return ops.where(labels_in_range(labels, num_classes), loss, np.nan)


def target_mask(labels: Any, num_classes: int) -> Any:
    """Tell which entry of each row is its label's: booleans, `(batch, num_classes)`."""
    labels = ops.cast(labels, "int32")
    return ops.arange(num_classes, dtype="int32")[None, :] == labels[:, None]


def labels_in_range(labels: Any, num_classes: int) -> Any:
    """Tell which labels are a class: booleans, `(batch,)`."""
    labels = ops.cast(labels, "int32")
    return ops.logical_and(labels >= 0, labels < num_classes)


def check_labels(labels: Any, num_classes: int) -> Any:
    """Return integer labels `(batch,)`; refuse one-hot labels and labels out of range.

    Raises:
        ValueError: a wrong shape (also while tracing), or in eager mode a label out of range. In a
            graph it is an `InvalidArgumentError` at run time; XLA drops that assertion, and
            `target_cross_entropy` answers with NaN.
    """
    if isinstance(labels, list | tuple):  # Keras maps over a list, and hands on its elements
        labels = ops.stack(list(labels))
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[-1] == 1:
        labels, shape = labels[:, 0], shape[:1]
    if len(shape) != 1:
        raise ValueError(
            "Labels must be integers of shape (batch,) or (batch, 1), not one-hot. "
            f"Received: shape={shape} for {num_classes} classes"
        )
    labels = ops.cast(labels, "int32")
    if not isinstance(labels, keras.KerasTensor):
        _assert_in_range(labels, num_classes)
    return labels


def _assert_in_range(labels: Any, num_classes: int) -> None:
    message = f"Labels must lie in [0, num_classes), here [0, {num_classes})."
    if tf.executing_eagerly():
        values = np.asarray(labels)
        wrong = values[(values < 0) | (values >= num_classes)]
        if len(wrong):
            raise ValueError(f"{message} Received: {wrong[:5].tolist()}")
        return
    tf.debugging.assert_non_negative(labels, message)
    tf.debugging.assert_less(labels, tf.constant(num_classes, labels.dtype), message)
