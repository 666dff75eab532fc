"""Batches from a packed folder, on one worker or several."""

from __future__ import annotations

import os

import tensorflow as tf

from tf_sphereface.data._decode import ProgressCallback
from tf_sphereface.data._index import SkipReport
from tf_sphereface.data._pack import Pack, is_pack
from tf_sphereface.data._pack_check import PackCheck, check_pack, open_pack
from tf_sphereface.data._pipeline import Options, for_replicas, make_dataset, worker_part
from tf_sphereface.data._sources import Size, open_images

__all__ = ["Pack", "PackCheck", "check_pack", "is_pack", "open_pack", "shard_dataset"]


def shard_dataset(
    source: Pack | str | os.PathLike[str],
    *,
    image_size: Size = (112, 96),
    batch_size: int = 128,
    channel_order: str = "rgb",
    augment: str = "mirror",
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = True,
    repeat: bool = False,
    start_step: int = 0,
    resize: bool = False,
    errors: str = "raise",
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Make batches of normalised faces and labels from a packed folder.

    The batches are bit for bit those that `face_dataset` makes of the folder that was packed, with
    the same arguments and however it was packed: an epoch is an exact random permutation of all
    images, and batch `k` a pure function of (images, `batch_size`, `seed`, `k`). Images are read at
    their places in the shards, and each is checked against its checksum. Nothing is held in memory
    but an epoch's order: 4 bytes an image, and some 20 while it is drawn.

    `start_step` costs the drawing of one order, wherever it lies: what comes before is neither read
    nor decoded.

    Args:
        source: a packed folder, or one that `open_pack` has opened.
        image_size: (height, width) in pixels.
        batch_size: of a step, over all workers and replicas.
        channel_order: `"rgb"` or `"bgr"`.
        augment: `"none"`, `"mirror"` or `"strong"`, as in `face_dataset`.
        shuffle: whether each epoch has its own random order; else that of the folder.
        seed: of order and augmentation.
        drop_remainder: drop the images that fill no batch; shapes are then static.
        repeat: go on for ever, one epoch after the other.
        start_step: index of the first batch; below the number of steps without `repeat`.
        resize: average images of another size down to `image_size` (bilinear if they must grow).
        errors: `"raise"` or `"skip"`, what to do with damaged records; see `open_pack`.
        report: where records that are left out are noted.
        progress: called with (done, total) while records are checked.
        shard_index: which worker this is, from 0 on.
        num_shards: number of workers. Worker i yields the i-th part of each global batch: all
            parts, in order, are the batch that one process would see, augmented alike.
        input_context: what `strategy.distribute_datasets_from_function` hands out, instead of
            `shard_index` and `num_shards`; batches are then those of one replica.

    Returns:
        A dataset of (float32 (part of batch, height, width, 3), `(x - 127.5) / 128`; int32 (part
        of batch,)).

    Raises:
        FileNotFoundError: there is no such packed folder, or it is not complete.
        ValueError: an argument is wrong, the images have another size (without `resize`), a shard
            is damaged (with `errors="raise"`), or there are fewer images than a batch holds. A
            record that proves damaged later raises `tf.errors.InvalidArgumentError` with its name.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, packed = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = data.synthetic.write_folder(faces, 4, 8, size=(56, 48))
    >>> _ = data.pack_folder(faces, packed)
    >>> dataset = shard_dataset(packed, image_size=(56, 48), batch_size=16, num_shards=2)
    >>> [images.shape for images, labels in dataset]
    [TensorShape([8, 56, 48, 3]), TensorShape([8, 56, 48, 3])]
    """
    if input_context is not None and (shard_index, num_shards) != (0, 1):
        raise ValueError(
            "shard_index and num_shards must be left out when input_context is given. "
            f"Received: {shard_index}, {num_shards}"
        )
    part = {"shard_index": shard_index, "num_shards": num_shards}
    part |= worker_part(input_context, batch_size, drop_remainder)
    options = Options(
        image_size=image_size,
        batch_size=batch_size,
        channel_order=channel_order,
        augment=augment,
        shuffle=shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
        repeat=repeat,
        start_step=start_step,
        **part,
    )
    pack = open_pack(source, errors=errors, report=report, progress=progress)
    with tf.device("/cpu:0"):
        dataset = make_dataset(open_images(pack, options.image_size, resize), options)
    return for_replicas(dataset, options, input_context)
