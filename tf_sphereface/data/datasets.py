"""Folders of faces, or arrays of them, as a `tf.data` pipeline that can be continued anywhere."""

from __future__ import annotations

import logging
import os

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.batches import make_dataset
from tf_sphereface.data.decoding import read_all, room_for
from tf_sphereface.data.folder_index import (
    FolderIndex,
    SkipReport,
    note_passed_over,
    scan_folder,
)
from tf_sphereface.data.options import (
    Augment,
    BatchOptions,
    ChannelOrder,
    ClassWeights,
    PixelType,
    Size,
)
from tf_sphereface.data.people import doubts, too_few
from tf_sphereface.data.sources import NumberedImages, Source, open_source
from tf_sphereface.utils.checks import check_image_size
from tf_sphereface.utils.messages import ProgressCallback

logger = logging.getLogger("tf_sphereface")


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
        strict: raise at the first damaged file rather than skip it, and where images are passed
            over (of a format that nothing here reads, or not in a person's folder).
        resize: accept images of other sizes.
        report: where skipped files are noted; without it, images that are passed over are a
            warning.
        progress: called with (done, total) now and then.
        workers: decoding threads; the machine's cores by default.

    Returns:
        An index of the good files, `checked` set. Labels and names are those of the whole folder.

    Raises:
        ValueError: a damaged file with `strict`, a file of another size without `resize` (both
            name the file), or no good file.

    Example:

    >>> from tf_sphereface.data import SkipReport, synthetic
    >>> folder, report = synthetic.write_folder("faces", 2, 2), SkipReport()
    >>> _ = (folder / "Person_000000" / "Person_000000_0002.jpg").write_bytes(b"damaged")
    >>> len(check_folder(folder, report=report)), report.count
    (3, 1)
    """
    index = source if isinstance(source, FolderIndex) else scan_folder(source)
    note_passed_over(index, strict, report)
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

    Arguments and errors are those of `check_folder`, and `ValueError` where the faces are larger
    than the free memory; `resize` averages images of other sizes down to `image_size`.

    Returns:
        Images, uint8 RGB (n, height, width, 3); labels, int32 (n,); the index of the good files.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> images, labels, index = load_folder(synthetic.write_folder("faces", 2, 2))
    >>> images.shape, labels.tolist(), index.names
    ((4, 112, 96, 3), [0, 0, 1, 1], ['Person_000000', 'Person_000001'])
    """
    index = source if isinstance(source, FolderIndex) else scan_folder(source)
    note_passed_over(index, strict, report)
    size = check_image_size("image_size", image_size)
    images = room_for(len(index), size)
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
    training: bool = True,
    augment: Augment | None = None,
    dtype: PixelType = "float32",
    shuffle: bool | None = None,
    seed: int = 0,
    drop_remainder: bool | None = None,
    class_weights: ClassWeights | None = None,
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
    """Make batches of normalised faces and labels, to train on or (`training=False`) to evaluate.

    Batch `k` is a pure function of the source, `batch_size`, `seed` and `k`: epoch
    `k // steps_per_epoch` has its own order, and batch `k` its own augmentation. Each pass over the
    dataset is the next epoch, as `fit(dataset, epochs=20)` needs it: order, augmentation and the
    images that fill no batch differ. A pass counts from its first batch on, so a look at that batch
    is one, and a dataset zipped with itself is two. With `repeat=True` every pass is the endless
    stream from `start_step` on: bit for bit where an uninterrupted run would be.

    `training=False` gives every image once, in the source's order and as it is, in each pass: for
    `predict` (row k is image k), `evaluate` and `validation_data`.

    Damaged files are found in one pass before the first batch, so the number of steps is exact and
    known. A file that breaks later, in a streamed run, stops the run with its name.

    A packed folder gives bit for bit the batches of the folder that was packed. Each image is
    checked against its checksum; in memory there is an epoch's order, 4 bytes per image (some 20
    while it is drawn).

    Args:
        source: a folder of identity folders, an index of one, a packed folder or one that
            `open_pack` has opened, an MXNet RecordIO file (or a folder with `train.rec`, or what
            `open_rec` has opened), or arrays `(images, labels)`: uint8 RGB (n, height, width, 3)
            and integers (n,). Images are not copied: a memory-mapped array stays on disk.
        image_size: (height, width) in pixels.
        batch_size: of a step, over all workers and replicas.
        channel_order: `"rgb"`, or `"bgr"` as Caffe's release; applies to arrays too, which come
            in as RGB.
        training: what the next three are by default; False: none, no shuffle, nothing dropped.
        augment: `"none"`, `"mirror"`, `"strong"` (mirror, shift, contrast, brightness, erasing),
            `"quality"` (mirror; cropped, gray, blurred, small and compressed faces) or `"warp"`
            (mirror; turned, moved, scaled, lit otherwise, some gray); `"mirror"` in training.
        dtype: `"float32"`, normalised, or `"uint8"`, pixels 0..255: a quarter of the bytes on their
            way to a GPU. `FaceClassifier` normalises them in the step; a stock Keras model needs
            `keras.layers.Rescaling(1 / 128, offset=-127.5 / 128)` before its network, and is
            refused without. Not with `"strong"`.
        shuffle: whether each epoch has its own random order; else the source's.
        seed: of order and augmentation.
        drop_remainder: drop the images that fill no batch, in each epoch others; shapes are then
            static, as XLA needs.
        class_weights: a third part of each batch, the images' weights (`sample_weight` of Keras):
            `"balanced"`, `n / (C n_c)` for n images of C people, n_c of the image's person; or
            label -> weight for each.
        cache: `"memory"` decodes once and keeps uint8 (32 kB per face at 112x96), and is an error
            where that is more memory than is free; `"none"` decodes at every use; a path keeps the
            decoded faces in that file, made on first use and again when files or sizes have
            changed. Packed folders and RecordIO files are always streamed.
        strict: raise at a damaged file, naming it, rather than skip it, and where images are passed
            over. A packed folder is then not
            read through before the first batch: a damaged record raises when it is read.
        repeat: continue without end, one epoch after the other.
        start_step: index of the first batch, over all epochs. Without `repeat` the first pass is
            the epoch in which it lies, and every pass begins as far into its epoch, so that all
            have one length: to go on after whole epochs, pass a multiple of the steps.
        report: where skipped files are noted.
        resize: average images of another size down to `image_size` (bilinear if they must grow).
        progress: called with (done, total) while files are decoded or checked.
        shard_index: which worker this is, from 0 on.
        num_shards: number of workers. Worker i yields the i-th part of each global batch: all
            parts, in order, are the batch that one process would see, augmented alike.
        input_context: what `strategy.distribute_datasets_from_function` passes, instead of
            `shard_index` and `num_shards`; batches are then those of one replica.

    Returns:
        A dataset of (float32 (part of batch, height, width, 3), `(x - 127.5) / 128`, or uint8, x;
        int32 (part of batch,)), and with `class_weights` float32 (part of batch,).

    Raises:
        FileNotFoundError: there is no such folder, or a packed folder is not complete.
        ValueError: an argument is wrong, a file has another size (without `resize`), is damaged
            (with `strict`), there are fewer images than a batch holds (with `drop_remainder`), or
            images of one person alone are to be shuffled, as for training. One image of each
            person, or of most, costs a warning in the log.
            What proves damaged later raises `tf.errors.InvalidArgumentError`, a file that is gone
            `tf.errors.NotFoundError`; what else cannot be read, others of `tf.errors`.

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
        augment=("mirror" if training else "none") if augment is None else augment,
        dtype=dtype,
        shuffle=training if shuffle is None else shuffle,
        seed=seed,
        drop_remainder=training if drop_remainder is None else drop_remainder,
        repeat=repeat,
        start_step=start_step,
        shard_index=shard_index,
        num_shards=num_shards,
        input_context=input_context,
        class_weights=class_weights,
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
    dataset = make_dataset(images, options)
    _say_doubts(images, options)
    return dataset


def _say_doubts(images: NumberedImages, options: BatchOptions) -> None:
    """Refuse to shuffle, as for training, what nothing can be learnt from; say what looks wrong."""
    dropped = options.dropped(images.count)
    if dropped and not options.shuffle:
        logger.warning(
            "the last %d of %d images are in no batch of any pass: without shuffle, pass "
            "drop_remainder=False (or training=False) to have them all",
            dropped,
            images.count,
        )
    if not options.shuffle:
        return
    people = (images.class_counts, images.names, images.where)
    wrong = too_few(*people)
    if wrong is not None and np.count_nonzero(images.class_counts) < 2:
        raise ValueError(f"{wrong}. To evaluate, pass training=False")
    for text in [wrong] if wrong else doubts(*people):
        logger.warning("%s", text)
