"""The part of a loss that sees all classes, with its gradient in one pass.

A loss needs three numbers of each row of the head's output: the entry of its target, the length of
the embedding, and the log-sum-exp of all other classes. Autodiff would keep a matrix as large as
the logits for each step on the way there, and make another for each piece of the gradient. Here the
forward pass makes one copy of the logits and the backward pass one gradient; there is no one-hot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_sphereface.losses import head_output

LOWEST = float(np.finfo("float32").min / 4)  # finite, so that a single class has a gradient


def margin_cross_entropy(
    labels: Any,
    outputs: Any,
    target_cosine: Callable[[Any, Any], Any],
    *,
    scale: float | None,
    xla: bool,
    label_smoothing: float = 0.0,
    norm_term: Callable[[Any], Any] | None = None,
) -> Any:
    """Compute the softmax cross-entropy in which a margin has moved the target's cosine.

    `target_cosine` is the margin: it maps the targets' cosines and the embeddings' lengths, both
    `(batch,)`, to what stands in the cosines' place. `norm_term` maps the lengths to a term that is
    added to each example's loss. `scale` multiplies all cosines; None stands for the length of each
    embedding. The result is in nats, `(batch,)`; NaN where a label is out of range.
    `label_smoothing` is that of `smoothed`; above 0 it costs one more table in the backward pass.

    The target stands outside the sum, so neither value nor gradient cancels where it dominates: at
    a probability of `1 - 1e-12` the gradient is -1e-12 and not 0.
    """
    num_classes = outputs.shape[-1] - 1
    target, norm, rest = target_norm_rest(outputs, labels, scale, xla=xla)
    if scale is None:
        logit = norm * target_cosine(target / norm, norm)
    else:
        floored = ops.maximum(norm, head_output.NORM_FLOOR)
        logit = scale * target_cosine(target / floored, norm)
    loss = ops.softplus(rest - logit)
    if label_smoothing:
        others = ops.sum(outputs, axis=-1) + norm - target  # the last column is -norm
        if scale is not None:
            others = others * (scale / floored)
        loss = smoothed(loss, logit, others, num_classes, label_smoothing)
    if norm_term is not None:
        loss = loss + norm_term(norm)
    return _or_nan(loss, labels, num_classes)


def smoothed(loss: Any, target: Any, others: Any, num_classes: int, label_smoothing: float) -> Any:
    """Turn a cross-entropy with the label alone into one with smoothed labels, `(batch,)`.

    With C classes and e = `label_smoothing`, the label's share is `1 - e + e / C` and that of each
    other class `e / C`. Of the logits z, with the margin in the target's, it is

        -sum_j share_j log softmax(z)_j  =  loss + e (z_y - mean_j z_j)

    Args:
        loss: `-log softmax(z)_y`.
        target: `z_y`.
        others: `sum_{j != y} z_j`.
        num_classes: C.
        label_smoothing: e, in [0, 1).

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7.

    Example:

    >>> z = np.array([2.0, -1.0])
    >>> plain = np.log(np.exp(z).sum()) - z[0]
    >>> round(float(smoothed(plain, z[0], z[1], 2, 0.2)), 4)     # plain + 0.2 (2 - 0.5)
    0.3486
    """
    share = label_smoothing / num_classes
    return loss + share * ((num_classes - 1) * target - others)


def detached(value: Any, cosine: Any, detach: bool) -> Any:
    """Return `value`, with the gradient of `cosine` where `detach` is set.

    This is the characteristic gradient detachment of SphereFace-R and SphereFace2.
    """
    return cosine + ops.stop_gradient(value - cosine) if detach else value


def _or_nan(loss: Any, labels: Any, num_classes: int) -> Any:
    return head_output.or_nan(loss, labels_in_range(labels, num_classes))


def target_norm_rest(
    outputs: Any, labels: Any, scale: float | None = None, *, xla: bool = False
) -> tuple[Any, Any, Any]:
    """Return `||x|| cos(theta_y)`, `||x||` and `log sum_{j != y} exp(logit_j)`, each `(batch,)`.

    A label out of range is taken for the nearest class. With a `scale` the logits of the other
    classes are `scale * cos(theta_j)`. XLA fuses a mask into its neighbours and would copy for a
    scatter; without it a scatter works in place, where a mask is one more table.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> [round(float(value[0]), 4) for value in target_norm_rest(outputs, [0])]
    [2.0, 3.0, -1.0]
    """
    num_classes = outputs.shape[-1] - 1
    classes = tf.clip_by_value(tf.cast(labels, tf.int32), 0, num_classes - 1)
    edit = MaskedTable if xla else ScatteredTable

    def scaled(others: Any, less: Any, factor: Any) -> Any:
        """Return `factor * others - less`: the difference first, which needs no second table."""
        if scale is None:
            return others - less[:, None]
        return (others - (less / factor)[:, None]) * factor[:, None]

    @tf.custom_gradient
    def reduce(table: Any) -> tuple[Any, Any]:
        norm = -table[:, -1]
        floored = tf.maximum(norm, head_output.NORM_FLOOR)
        factor = tf.ones_like(norm) if scale is None else scale / floored
        lowest = LOWEST / tf.maximum(factor, 1.0)
        logits = edit.open(table)
        target = tf.gather(logits, classes, axis=1, batch_dims=1)
        with tf.control_dependencies([target, norm]):  # now `table` can be let go of
            masked = edit.put(logits, classes, lowest, lowest)
        largest = tf.reduce_max(masked, axis=-1) * factor
        others, powers = edit.others(logits, masked, classes)
        total = tf.reduce_sum(powers(scaled(others, largest, factor)), axis=-1)
        rest = tf.math.log(total) + largest

        def backward(to_target: Any, to_norm: Any, to_rest: Any) -> Any:
            share = powers(scaled(others, rest, factor))  # of a class among the others
            if scale is not None:
                # factor = scale / ||x||: the norm, and with it the last column, moves all logits
                mean = tf.matmul(share[:, None, :], others[:, :, None])[:, 0, 0]  # no product table
                inside = tf.cast(norm > head_output.NORM_FLOOR, table.dtype)
                to_norm = to_norm - to_rest * mean * factor / floored * inside
            with tf.control_dependencies([to_norm]):  # now `share` can be changed in place
                gradient = share * (to_rest * factor)[:, None]
            return edit.close(edit.put(gradient, classes, to_target, -to_norm), -to_norm)

        return (target, norm, rest), backward

    target, norm, rest = reduce(tf.convert_to_tensor(outputs))
    return target, norm, rest


class ScatteredTable:
    """Without XLA: change single entries of the whole table, in place where that is possible."""

    @staticmethod
    def open(table: Any) -> Any:
        return table

    @staticmethod
    def others(_: Any, masked: Any, classes: Any) -> tuple[Any, Any]:
        """Return the table to take exponentials of, and how: the mask is in the table."""
        return masked, tf.exp

    @staticmethod
    def put(table: Any, classes: Any, at_target: Any, at_end: Any) -> Any:
        """Put a number at each row's target and one into its last column."""
        rows = tf.range(tf.shape(table)[0])
        places = tf.concat([classes, tf.fill(tf.shape(rows), table.shape[-1] - 1)], 0)
        where = tf.stack([tf.tile(rows, [2]), places], axis=1)
        return tf.tensor_scatter_nd_update(table, where, tf.concat([at_target, at_end], 0))

    @staticmethod
    def close(table: Any, _: Any) -> Any:
        return table


class MaskedTable:
    """For XLA: masks over the logits alone, which it fuses; their slice and join cancel there."""

    @staticmethod
    def open(table: Any) -> Any:
        return table[:, :-1]

    @staticmethod
    def others(logits: Any, _: Any, classes: Any) -> tuple[Any, Any]:
        """Return the table to take exponentials of, and how: the mask comes after.

        The masked table has then one use, the maximum, and need not be kept beside the logits.
        """
        columns = tf.range(logits.shape[-1])[None, :]
        return logits, lambda x: tf.where(columns == classes[:, None], 0.0, tf.exp(x))

    @staticmethod
    def put(logits: Any, classes: Any, at_target: Any, _: Any) -> Any:
        """Put a number at each row's target."""
        columns = tf.range(logits.shape[-1])[None, :]
        return tf.where(columns == classes[:, None], at_target[:, None], logits)

    @staticmethod
    def close(logits: Any, at_end: Any) -> Any:
        return tf.concat([logits, at_end[:, None]], axis=-1)


def target_entries(logits: Any, labels: Any) -> Any:
    """Gather each row's entry at its label: `(batch, classes), (batch,) -> (batch,)`."""
    safe = ops.clip(ops.cast(labels, "int32"), 0, logits.shape[-1] - 1)
    return ops.take_along_axis(logits, safe[:, None], axis=-1)[:, 0]


def target_cross_entropy(
    logits: Any, labels: Any, target: Any, label_smoothing: float = 0.0
) -> Any:
    """Compute the cross-entropy of each row with the logit at its label replaced by `target`.

    For losses that move the logits of all classes: `softplus(log sum_{j != y} exp(z_j) - t)`, where
    the target stands outside the sum. NaN where a label is out of range: inside XLA, where no
    assertion survives, this is what keeps a wrong label from training silently. `label_smoothing`
    is that of `smoothed`.
    """
    num_classes = logits.shape[-1]
    is_target = target_mask(labels, num_classes)
    rest = ops.logsumexp(ops.where(is_target, LOWEST, logits), axis=-1)
    loss = ops.softplus(rest - target)
    if label_smoothing:
        others = ops.sum(ops.where(is_target, 0.0, logits), axis=-1)
        loss = smoothed(loss, target, others, num_classes, label_smoothing)
    return _or_nan(loss, labels, num_classes)


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

    A label out of range is an `InvalidArgumentError` in a graph; XLA drops that assertion, and
    the losses answer with NaN.
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
    if not isinstance(labels, keras.KerasTensor):
        labels = _in_range(_as_given(labels, num_classes), num_classes)
    return ops.cast(labels, "int32")


def _as_given(labels: Any, num_classes: int) -> Any:
    """Return labels as int32, or as int64 where they are; refuse fractions."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if dtype == "string":
        raise ValueError(
            f"Labels must be integers in [0, {num_classes}), and these are texts. Number them: "
            "names, labels = np.unique(texts, return_inverse=True), or in a dataset "
            "keras.layers.StringLookup(vocabulary=names, num_oov_indices=0)"
        )
    if not keras.backend.is_float_dtype(dtype):
        return ops.cast(labels, "int64" if dtype in ("int64", "uint64", "uint32") else "int32")
    whole = ops.cast(labels, "int32")
    same = tf.reduce_all(tf.equal(ops.cast(whole, dtype), labels))
    message = f"Labels must be whole numbers in [0, {num_classes}), and some are not."
    if tf.executing_eagerly():
        if not bool(same):
            raise ValueError(message)
        return whole
    with tf.control_dependencies([tf.debugging.Assert(same, [message])]):
        return tf.identity(whole)


def _in_range(labels: Any, num_classes: int) -> Any:
    """Return the labels once they are checked: nothing is updated by those of a wrong batch."""
    message = f"Labels must lie in [0, num_classes), here [0, {num_classes})."
    if tf.executing_eagerly():
        values = np.asarray(labels)
        wrong = values[(values < 0) | (values >= num_classes)]
        if len(wrong):
            raise ValueError(f"{message} Received: {wrong[:5].tolist()}")
        return labels
    checks = [
        tf.debugging.assert_non_negative(labels, message),
        tf.debugging.assert_less(labels, tf.constant(num_classes, labels.dtype), message),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(labels)
