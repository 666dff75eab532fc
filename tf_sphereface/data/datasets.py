"""Folders of faces, or arrays of them, as a `tf.data` pipeline that can be continued anywhere."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.batches import make_dataset
from tf_sphereface.data.decoding import read_all
from tf_sphereface.data.folder_index import FolderIndex, SkipReport, scan_folder
from tf_sphereface.data.options import Augment, BatchOptions, ChannelOrder, Size
from tf_sphereface.data.sources import Source, open_source
from tf_sphereface.utils.checks import check_image_size
from tf_sphereface.utils.messages import ProgressCallback


def check_folder(
    source: FolderIndex | str | os.PathLike[str],
    *,
    image_size: Size = (112, 96),
    strict: bool = False,
    resize: bool = False,
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
    workers: int | None = None,
) -> FolderIndex:
    """Decode every file once and leave the damaged ones out.

    The number of steps of an epoch depends on how many files are good, so this comes before
    training. `face_dataset` does it by itself for an index that is not checked.

    Args:
        source: a folder of identity folders, or its index.
        image_size: (height, width) that every image must have.
        strict: raise at the first damaged file rather than skip it.
        resize: accept images of other sizes.
        report: where skipped files are noted.
        progress: called with (done, total) now and then.
        workers: decoding threads; the machine's cores by default.

    Returns:
        An index of the good files, `checked` set. Labels and names are those of the whole folder.

    Raises:
        ValueError: a damaged file with `strict`, a file of another size without `resize` (both
            name the file), or no good file.
    """
    index = source if isinstance(source, FolderIndex) else scan_folder(source)
    return read_all(
        index,
        check_image_size("image_size", image_size),
        allow_resize=resize,
        strict=strict,
        report=report,
        progress=progress,
        workers=workers,
    )


def load_folder(
    source: FolderIndex | str | os.PathLike[str],
    *,
    image_size: Size = (112, 96),
    strict: bool = False,
    resize: bool = False,
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
    workers: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int32], FolderIndex]:
    """Decode a folder into memory, once, in parallel.

    Arguments and errors are those of `check_folder`; `resize` averages images of other sizes down
    to `image_size`.

    Returns:
        Images, uint8 RGB (n, height, width, 3); labels, int32 (n,); the index of the good files.
    """
    index = source if isinstance(source, FolderIndex) else scan_folder(source)
    size = check_image_size("image_size", image_size)
    images = np.empty((len(index), *size, 3), np.uint8)
    index = read_all(
        index,
        size,
        allow_resize=resize,
        strict=strict,
        report=report,
        progress=progress,
        store=images.__setitem__,
        workers=workers,
    )
    return images[: len(index)], index.labels, index


def face_dataset(
    source: Source,
    *,
    image_size: Size = (112, 96),
    batch_size: int = 128,
    channel_order: ChannelOrder = "rgb",
    augment: Augment = "mirror",
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = True,
    cache: str | os.PathLike[str] = "memory",
    strict: bool = False,
    repeat: bool = False,
    start_step: int = 0,
    report: SkipReport | None = None,
    resize: bool = False,
    progress: ProgressCallback | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Make batches of normalised faces and labels.

    Batch `k` is a pure function of the source, `batch_size`, `seed` and `k`: epoch
    `k // steps_per_epoch` has its own order, and batch `k` its own augmentation. With
    `repeat=True`, `start_step=k` therefore continues bit for bit where an uninterrupted run would
    be. Without `repeat` the dataset is epoch 0 and every pass over it is the same: to train for
    several epochs use `repeat=True` and Keras's `fit(..., steps_per_epoch=...)`.

    Damaged files are found in one pass before the first batch, so the number of steps is exact and
    known. A file that breaks later, in a streamed run, stops the run with its name.

    A packed folder gives bit for bit the batches of the folder that was packed. Each image is
    checked against its checksum; in memory there is an epoch's order, 4 bytes per image (some 20
    while it is drawn).

    Args:
        source: a folder of identity folders, an index of one, a packed folder or one that
            `open_pack` has opened, an MXNet RecordIO file (or a folder with `train.rec`, or what
            `open_rec` has opened), or arrays `(images, labels)`: uint8 RGB (n, height, width, 3)
            and integers (n,).
        image_size: (height, width) in pixels.
        batch_size: of a step, over all workers and replicas.
        channel_order: `"rgb"`, or `"bgr"` as Caffe's release; applies to arrays too, which come
            in as RGB.
        augment: `"none"`, `"mirror"` or `"strong"` (mirror, shift, contrast, brightness, erasing).
        shuffle: whether each epoch has its own random order; else the source's.
        seed: of order and augmentation.
        drop_remainder: drop the images that fill no batch; shapes are then static, as XLA needs.
        cache: `"memory"` decodes once and keeps uint8 (32 kB per face at 112x96); `"none"` decodes
            at every use; a path keeps the decoded faces in that file, made on first use and again
            when files or sizes have changed. Packed folders and RecordIO files are always
            streamed.
        strict: raise at a damaged file, naming it, rather than skip it. A packed folder is then not
            read through before the first batch: a damaged record raises when it is read.
        repeat: continue without end, one epoch after the other.
        start_step: index of the first batch; below the number of steps without `repeat`.
        report: where skipped files are noted.
        resize: average images of another size down to `image_size` (bilinear if they must grow).
        progress: called with (done, total) while files are decoded or checked.
        shard_index: which worker this is, from 0 on.
        num_shards: number of workers. Worker i yields the i-th part of each global batch: all
            parts, in order, are the batch that one process would see, augmented alike.
        input_context: what `strategy.distribute_datasets_from_function` passes, instead of
            `shard_index` and `num_shards`; batches are then those of one replica.

    Returns:
        A dataset of (float32 (part of batch, height, width, 3), `(x - 127.5) / 128`; int32 (part
        of batch,)).

    Raises:
        FileNotFoundError: there is no such folder, or a packed folder is not complete.
        ValueError: an argument is wrong, a file has another size (without `resize`), is damaged
            (with `strict`), or there are fewer images than a batch holds (with `drop_remainder`).
            A record that proves damaged later raises `tf.errors.InvalidArgumentError`.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> faces = synthetic.training_set(4, 8, size=(56, 48))
    >>> dataset = face_dataset(faces, image_size=(56, 48), batch_size=16)
    >>> [images.shape for images, labels in dataset]
    [TensorShape([16, 56, 48, 3]), TensorShape([16, 56, 48, 3])]
    """
    options = BatchOptions(
        image_size=image_size,
        batch_size=batch_size,
        channel_order=channel_order,
        augment=augment,
        shuffle=shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
        repeat=repeat,
        start_step=start_step,
        shard_index=shard_index,
        num_shards=num_shards,
        input_context=input_context,
    )
    with tf.device("/cpu:0"):
        images = open_source(
            source,
            options.image_size,
            cache,
            strict=strict,
            report=report,
            resize=resize,
            progress=progress,
        )
    return make_dataset(images, options)
