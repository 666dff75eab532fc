"""Options of a pipeline of faces, each stated and checked once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from tf_sphereface.utils import checks

if TYPE_CHECKING:
    import tensorflow as tf

Size = tuple[int, int]
"""Height and width in pixels."""

ChannelOrder = Literal["rgb", "bgr"]
Augment = Literal["none", "mirror", "strong", "quality", "warp"]
PixelType = Literal["float32", "uint8"]
ClassWeights = Literal["balanced"] | Mapping[int, float]


def steps_per_epoch(source_len: int, batch_size: int, *, drop_remainder: bool = True) -> int:
    """Return the number of batches of an epoch.

    Example:

    >>> steps_per_epoch(300, 128), steps_per_epoch(300, 128, drop_remainder=False)
    (2, 3)
    """
    return source_len // batch_size if drop_remainder else -(-source_len // batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The options of `face_dataset` that say which batches are made, checked."""

    image_size: Size = (112, 96)
    batch_size: int = 128
    channel_order: ChannelOrder = "rgb"
    augment: Augment = "mirror"
    dtype: PixelType = "float32"
    shuffle: bool = True
    seed: int = 0
    drop_remainder: bool = True
    repeat: bool = False
    start_step: int = 0
    shard_index: int = 0
    num_shards: int = 1
    input_context: tf.distribute.InputContext | None = None
    class_weights: ClassWeights | None = None

    def __post_init__(self) -> None:
        size = checks.check_image_size("image_size", self.image_size)
        object.__setattr__(self, "image_size", size)
        checks.check_choice("channel_order", self.channel_order, get_args(ChannelOrder))
        checks.check_choice("augment", self.augment, get_args(Augment))
        checks.check_choice("dtype", self.dtype, get_args(PixelType))
        if self.dtype == "uint8" and self.augment == "strong":
            raise checks.error(
                "dtype",
                'be "float32" with augment="strong", whose light goes beyond 0..255',
                self.dtype,
            )
        for name, least in (("batch_size", 1), ("seed", 0), ("start_step", 0), ("num_shards", 1)):
            value = checks.check_integer(name, getattr(self, name), least)
            object.__setattr__(self, name, value)
        checks.check_integer("shard_index", self.shard_index, 0, self.num_shards - 1)
        context = self.input_context
        if context is not None and (self.shard_index, self.num_shards) != (0, 1):
            raise checks.error("num_shards", "be left out with input_context", self.num_shards)
        if context is not None and not self.drop_remainder:
            raise checks.error("drop_remainder", "be set with input_context", self.drop_remainder)
        workers = self.worker[1]
        replicas = workers if context is None else context.num_replicas_in_sync
        if self.drop_remainder and self.batch_size % math.lcm(workers, replicas):
            raise checks.error(
                "batch_size",
                f"be a multiple of the {workers} workers and {replicas} replicas while "
                "drop_remainder is set",
                self.batch_size,
            )

    def dropped(self, count: int) -> int:
        """Return how many of `count` images an epoch leaves out, as they fill no batch."""
        return count % self.batch_size if self.drop_remainder else 0

    @property
    def worker(self) -> tuple[int, int]:
        """The index of this worker, and the number of workers."""
        if self.input_context is None:
            return self.shard_index, self.num_shards
        return self.input_context.input_pipeline_id, self.input_context.num_input_pipelines

    def steps(self, count: int) -> int:
        """Return the steps of an epoch of `count` images, one or more."""
        steps = steps_per_epoch(count, self.batch_size, drop_remainder=self.drop_remainder)
        if count == 0:
            raise ValueError("Argument `source` must hold an image or more. Received: 0 images")
        if steps == 0:
            raise checks.error(
                "batch_size",
                f"not exceed the number of images, {count}, while drop_remainder is set",
                self.batch_size,
            )
        return steps
