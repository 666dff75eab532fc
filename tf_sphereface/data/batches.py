"""Batches of numbered images: their order, their augmentation, and a worker's share of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.augmentation import Part, augment_batch, drawn_mirror
from tf_sphereface.data.folder_index import FolderIndex
from tf_sphereface.data.options import Augment, BatchOptions, ChannelOrder, Size
from tf_sphereface.data.pack.reading import Pack
from tf_sphereface.data.passes import begun_passes
from tf_sphereface.data.people import weights_of
from tf_sphereface.data.recordio.reading import RecordFile
from tf_sphereface.data.sources import NumberedImages, open_source

_ORDER, _AUGMENT = 1, 2  # keep the random streams of order and augmentation apart


def make_dataset(images: NumberedImages, options: BatchOptions) -> tf.data.Dataset:
    """Make batches of faces and labels, as `face_dataset` describes them."""
    with tf.device("/cpu:0"):
        steps = options.steps(images.count)
        weights = None
        if options.class_weights is not None:
            weights = tf.constant(weights_of(options.class_weights, images.class_counts))

        @tf.autograph.experimental.do_not_convert
        def make_batch(step: tf.Tensor, positions: tf.Tensor) -> tuple[Any, ...]:
            positions, part = _share(positions, options)
            labels = images.labels(positions)
            told: Any = labels
            if images.targets is not None:
                told = (labels, images.targets(positions, mirrors(step, options, part)))
            batch = (prepare(images, positions, step, options, part), told)
            return batch if weights is None else (*batch, tf.gather(weights, labels))

        first, begin = divmod(options.start_step, steps)
        epochs = begun_passes(first, options, options.dropped(images.count), images.names)
        if options.repeat:
            epochs = epochs.flat_map(tf.data.Dataset.counter)
        length = tf.data.INFINITE_CARDINALITY if options.repeat else steps - begin
        dataset = (
            epochs.flat_map(_epoch(images.count, steps, options))
            .apply(tf.data.experimental.assert_cardinality(length))
            .map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(untuned())
        )
        context = options.input_context
        if context is None:
            return dataset
        size = options.batch_size // context.num_replicas_in_sync
        return dataset.rebatch(size, drop_remainder=True)


def untuned() -> tf.data.Options:
    """Return the options of a pipeline without TensorFlow's autotuner.

    Its thread sleeps between its turns, the longer the longer the pipeline lives, up to a minute,
    and in TensorFlow 2.21 it sometimes sleeps on where the pipeline ends: an epoch in eight would
    end with a pause. There is nothing to tune: each batch is made by one function.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def prepare(
    images: NumberedImages, positions: tf.Tensor, step: tf.Tensor, options: BatchOptions, part: Part
) -> tf.Tensor:
    """Return the faces at `positions`, int64 (batch,), as batch `step` has them.

    That is: augmentation, channel order, range and type.
    """
    mirror = None if options.augment == "strong" else mirrors(step, options, part)
    pixels = images.fetch(positions, mirror)
    key = _key(options.seed, _AUGMENT, step)
    batch = augment_batch(pixels, key, options.augment, part, dtype=options.dtype)
    return tf.reverse(batch, [3]) if options.channel_order == "bgr" else batch


def mirrors(step: tf.Tensor, options: BatchOptions, part: Part) -> tf.Tensor | None:
    """Return which images of batch `step` are mirrored, booleans (images in `part`,), or None."""
    if options.augment == "none":
        return None
    return drawn_mirror(_key(options.seed, _AUGMENT, step), part)


def single_order(count: int, options: BatchOptions, epoch: tf.Tensor) -> tf.Tensor:
    """Return the order of an epoch's images, int32 (count,)."""
    return permutation(count, options.seed, epoch) if options.shuffle else tf.range(count)


def _key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    """Return a seed, int64 (2,), for epoch or step `number` of one random stream."""
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)])
    return tf.random.experimental.stateless_fold_in(key, stream)


def permutation(count: int, seed: int, number: tf.Tensor, stream: int = _ORDER) -> tf.Tensor:
    """Draw a uniform permutation of `count` images, int32: 63 random bits per image, sorted."""
    key = _key(seed, stream, number)
    draws = tf.random.stateless_uniform([count], key, 0, tf.int64.max, tf.int64)
    return tf.argsort(draws, stable=True)


def _epoch(count: int, steps: int, options: BatchOptions) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Return a function from an epoch to its batches: their steps, and positions, int64 (batch,).

    An epoch begins where `start_step` lies in it, with `repeat` the first one alone; the batches
    before are not even made.
    """
    size = options.batch_size
    first, offset = divmod(options.start_step, steps)

    @tf.autograph.experimental.do_not_convert
    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = single_order(count, options, epoch)
        begin = tf.constant(offset, tf.int64)
        if options.repeat:
            begin = tf.where(epoch > first, tf.zeros([], tf.int64), begin)

        @tf.autograph.experimental.do_not_convert
        def positions(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = tf.cast(order[step * size : (step + 1) * size], tf.int64)
            batch = tf.ensure_shape(batch, [size if options.drop_remainder else None])
            return epoch * steps + step, batch

        return tf.data.Dataset.range(begin, steps).map(positions)

    return batches


def _share(positions: tf.Tensor, options: BatchOptions) -> tuple[tf.Tensor, Part]:
    """Cut this worker's run of images out of a global batch."""
    total, (index, workers) = tf.shape(positions)[0], options.worker
    first = index * total // workers
    count = (index + 1) * total // workers - first
    share = positions[first : first + count]
    if options.drop_remainder:
        share = tf.ensure_shape(share, [options.batch_size // workers])
    return share, Part(first, count, total)


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

    The source has `count` images; steps count from 0, over all epochs. The other arguments are
    those of `face_dataset`.

    Returns:
        Positions in the source, int64 (batch,).

    Raises:
        ValueError: the source fills no batch.

    Example:

    >>> batch_positions(10, 4, step=1, shuffle=False).tolist()
    [4, 5, 6, 7]
    """
    options = BatchOptions(
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
        repeat=True,
        start_step=step,
    )
    return _first_positions(count, options)


def _first_positions(count: int, options: BatchOptions) -> NDArray[np.int64]:
    """Return the positions of the images of batch `start_step`."""
    epoch, within = divmod(options.start_step, options.steps(count))
    with tf.device("/cpu:0"):
        order = single_order(count, options, tf.constant(epoch, tf.int64)).numpy()
    size = options.batch_size
    return np.asarray(order[within * size : (within + 1) * size], np.int64)


def batch_at(
    source: FolderIndex | Pack | RecordFile | tuple[np.ndarray, np.ndarray],
    step: int,
    *,
    image_size: Size = (112, 96),
    batch_size: int = 128,
    channel_order: ChannelOrder = "rgb",
    augment: Augment = "mirror",
    seed: int = 0,
    resize: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Make batch `step` of a shuffled `face_dataset` alone, to look at it or to run it again.

    Steps count from 0, over all epochs. The source is an index of good files (as `check_folder`
    returns), a packed folder or a RecordIO file that is open, or arrays; the other arguments are
    those of `face_dataset`.

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
    options = BatchOptions(
        image_size=image_size,
        batch_size=batch_size,
        channel_order=channel_order,
        augment=augment,
        seed=seed,
        repeat=True,
        start_step=step,
    )
    count = len(source[1]) if isinstance(source, tuple) else len(source)
    positions = _first_positions(count, options)
    if isinstance(source, tuple):  # only these images, not a copy of all
        source = (source[0][positions], np.asarray(source[1])[positions])
        positions = np.arange(batch_size)
    with tf.device("/cpu:0"):
        images = open_source(source, options.image_size, "none", strict=True, resize=resize)
        chosen = tf.constant(positions, tf.int64)
        whole = Part(0, batch_size, batch_size)
        try:
            batch = prepare(images, chosen, tf.constant(step, tf.int64), options, whole)
        except tf.errors.OpError as error:
            raise ValueError(error.message) from None
        labels = images.labels(chosen)
    return np.asarray(batch), np.asarray(labels, np.int32)
