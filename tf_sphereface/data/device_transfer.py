"""The last stage of a training pipeline: batches that wait on the device that computes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

AHEAD = 2  # batches that wait on the device


def on_device(dataset: Any, strategy: tf.distribute.Strategy) -> Any:
    """Return a dataset whose batches are on the GPU before the step asks for them.

    So it is on one GPU without a strategy: `fit` itself copies a batch when a step begins, which
    the device waits for. Elsewhere the dataset is returned as it is: on a CPU there is nothing to
    copy, and strategies have stages of their own. Nothing can follow the stage, so it belongs into
    the call of `fit`.

    Example:

    >>> dataset = tf.data.Dataset.range(4).batch(2)
    >>> [batch.numpy().tolist() for batch in on_device(dataset, tf.distribute.get_strategy())]
    [[0, 1], [2, 3]]
    """
    device = _device(strategy)
    if device is None or not isinstance(dataset, tf.data.Dataset):
        return dataset
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


def _only(batch: Any) -> Any:
    return tf.squeeze(batch, axis=0)
