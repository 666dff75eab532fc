"""The last stage of a training pipeline: batches that wait on the device that computes."""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

logger = logging.getLogger("tf_sphereface")
AHEAD = 2  # batches that wait on the device


def on_device(dataset: Any, strategy: tf.distribute.Strategy) -> Any:
    """Return a dataset whose batches are on the GPU before the step asks for them.

    So it is on one GPU without a strategy: `fit` itself copies a batch when a step begins, which
    the device waits for. Elsewhere the dataset is returned as it is: on a CPU there is nothing to
    copy, and strategies have stages of their own; so it is where a batch of zeros does not pass
    the stage, which the log says. Nothing can follow the stage, so it belongs into the call of
    `fit`.

    Example:

    >>> dataset = tf.data.Dataset.range(4).batch(2)
    >>> [batch.numpy().tolist() for batch in on_device(dataset, tf.distribute.get_strategy())]
    [[0, 1], [2, 3]]
    """
    device = _device(strategy)
    if device is None or not isinstance(dataset, tf.data.Dataset):
        return dataset
    zeros = tf.nest.map_structure(_zeros, dataset.element_spec)
    try:
        next(iter(_ahead(tf.data.Dataset.from_tensors(zeros), device)))
    except (tf.errors.OpError, ValueError, TypeError) as error:
        logger.warning("batches are not copied to %s ahead: %s", device, error)
        return dataset
    return _ahead(dataset, device)


def _ahead(dataset: tf.data.Dataset, device: str) -> tf.data.Dataset:
    """Return the dataset with the stage after it."""
    # Only `batch` makes its tensors in memory that a GPU copies from while it computes. What picks
    # the one batch out again shares the memory.
    pinned = dataset.batch(1).map(lambda *parts: tf.nest.map_structure(_only, _element(parts)))
    return pinned.apply(tf.data.experimental.prefetch_to_device(device, AHEAD))


def _device(strategy: tf.distribute.Strategy) -> str | None:
    """Return the GPU that a step computes on; None where no stage of ours is of use."""
    if tf.distribute.has_strategy() or strategy is not tf.distribute.get_strategy():
        return None
    gpus = tf.config.list_logical_devices("GPU")
    return gpus[0].name if gpus else None


def _element(parts: tuple[Any, ...]) -> Any:
    return parts if len(parts) > 1 else parts[0]


def _zeros(spec: tf.TensorSpec) -> Any:
    return tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)


def _only(batch: Any) -> Any:
    return tf.squeeze(batch, axis=0)
