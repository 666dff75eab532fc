"""One batch of a pipeline alone, to look at it or to run it again."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data._index import FolderIndex
from tf_sphereface.data._pack import Pack
from tf_sphereface.data._pipeline import Options, prepare, single_order
from tf_sphereface.data._sources import Size, open_source


def batch_positions(
    count: int,
    batch_size: int,
    step: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    drop_remainder: bool = True,
) -> NDArray[np.int64]:
    """Return which images batch `step` of `face_dataset` holds, without making the batch.

    Args:
        count: number of images of the source.
        batch_size: as in `face_dataset`.
        step: index of the batch, from 0, over all epochs.
        seed: as in `face_dataset`.
        shuffle: likewise.
        drop_remainder: likewise.

    Returns:
        Positions in the source, int64 (batch,).

    Raises:
        ValueError: the source fills no batch.

    Example:

    >>> batch_positions(10, 4, step=1, shuffle=False).tolist()
    [4, 5, 6, 7]
    """
    options = Options(
        image_size=(1, 1),
        batch_size=batch_size,
        channel_order="rgb",
        augment="none",
        shuffle=shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
        repeat=True,
        start_step=step,
    )
    epoch, within = divmod(step, options.steps(count))
    with tf.device("/cpu:0"):
        order = single_order(count, options, tf.constant(epoch, tf.int64)).numpy()
    return np.asarray(order[within * batch_size : (within + 1) * batch_size], np.int64)


def batch_at(
    source: FolderIndex | Pack | tuple[np.ndarray, np.ndarray],
    step: int,
    *,
    image_size: Size = (112, 96),
    batch_size: int = 128,
    channel_order: str = "rgb",
    augment: str = "mirror",
    seed: int = 0,
    resize: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Make batch `step` of a shuffled `face_dataset` alone, to look at it or to run it again.

    Args:
        source: an index of good files (as `check_folder` returns), a packed folder, or arrays.
        step: index of the batch, from 0, over all epochs.
        image_size: as in `face_dataset`, like all that follow.
        batch_size: of a step.
        channel_order: `"rgb"` or `"bgr"`.
        augment: `"none"`, `"mirror"` or `"strong"`.
        seed: of order and augmentation.
        resize: average images of another size down.

    Returns:
        float32 (batch, height, width, 3) and int32 (batch,), as the dataset's.

    Raises:
        ValueError: the source fills no batch, or a file has become unreadable.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> faces = synthetic.training_set(4, 8, size=(56, 48))
    >>> batch_at(faces, 3, image_size=(56, 48), batch_size=16)[0].shape
    (16, 56, 48, 3)
    """
    options = Options(
        image_size=image_size,
        batch_size=batch_size,
        channel_order=channel_order,
        augment=augment,
        shuffle=True,
        seed=seed,
        drop_remainder=True,
        repeat=True,
        start_step=step,
    )
    count = len(source[1]) if isinstance(source, tuple) else len(source)
    positions = batch_positions(count, batch_size, step, seed=seed)
    if isinstance(source, tuple):  # only these images, not a copy of all
        source = (source[0][positions], np.asarray(source[1])[positions])
        positions = np.arange(batch_size)
    with tf.device("/cpu:0"):
        images = open_source(
            source,
            options.image_size,
            "none",
            strict=True,
            report=None,
            resize=resize,
            progress=None,
        )
        chosen = tf.constant(positions, tf.int64)
        batch = prepare(images.fetch(chosen), tf.constant(step, tf.int64), options)
        labels = images.labels(chosen)
    return np.asarray(batch), np.asarray(labels, np.int32)
