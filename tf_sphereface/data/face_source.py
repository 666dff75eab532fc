"""A source of training faces with its options: the endless stream of batches, and their names."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.batches import batch_at, batch_positions, make_dataset
from tf_sphereface.data.decoding import lack_of_room
from tf_sphereface.data.exclusions import Exclusions, image_names
from tf_sphereface.data.folder_index import FolderIndex, SkipReport
from tf_sphereface.data.found_faces import Faces, SyntheticFaces, find_faces
from tf_sphereface.data.options import Augment, BatchOptions, Size
from tf_sphereface.data.people import faces_of
from tf_sphereface.data.sources import fetch_targets, open_source
from tf_sphereface.utils.checks import check_choice, error
from tf_sphereface.utils.messages import ProgressCallback, printable


@dataclasses.dataclass(eq=False)
class FaceSource:
    """Training faces and how batches are made of them.

    Making one opens nothing. The faces are read, rendered or checked by `load`, or by the first
    call that needs them; damaged files are left out then, and noted in `report`. Fewer than two
    people, or one image of each, are refused: nothing can be learnt from them.

    Args:
        source: a folder of identity folders, a packed folder (see `open_pack`), a RecordIO file
            (see `open_rec`), arrays `(images, labels)` as `face_dataset` takes them, or
            `SyntheticFaces`.
        image_size: (height, width) in pixels.
        batch_size: of a step, over all replicas.
        augment: `"none"`, `"mirror"`, `"strong"`, `"quality"` or `"warp"`, as in `face_dataset`.
        dtype: of the stream's images, `"float32"` or `"uint8"`, as in `face_dataset`; `batch_at`
            gives float32.
        seed: of order and augmentation.
        channel_order: `"rgb"` or `"bgr"`.
        cache: of a folder; `"memory"` decodes it once, `"none"` in each epoch.
        strict: raise at a damaged file rather than leave it out.
        resize: average images of another size down to `image_size`.
        class_weights: None, or `"balanced"`: weights in the stream, as in `face_dataset`.
        exclude: people and images of a folder, packed or not, to leave out.
        report: where damaged files are noted.
        unlabelled: nobody needs labels: fewer than two people are no error, and of a folder
            without folders of people all images are taken, at any depth, as of one person.

    Example:

    >>> source = FaceSource(SyntheticFaces(4, 8), image_size=(56, 48), batch_size=16)
    >>> source.describe(), source.steps_per_epoch
    ('synthetic: 32 faces of 4 people', 2)
    >>> images, labels = next(iter(source.stream(step=5)))
    >>> bool(np.all(images == source.batch_at(5)[0]))
    True
    """

    source: str | os.PathLike[str] | tuple[np.ndarray, np.ndarray] | SyntheticFaces
    _: dataclasses.KW_ONLY
    image_size: Size = (112, 96)
    batch_size: int = 128
    augment: Augment = "mirror"
    dtype: Literal["float32", "uint8"] = "float32"
    seed: int = 0
    channel_order: Literal["rgb", "bgr"] = "rgb"
    cache: Literal["memory", "none"] = "memory"
    strict: bool = False
    resize: bool = False
    class_weights: Literal["balanced"] | None = None
    exclude: Exclusions | None = None
    report: SkipReport = dataclasses.field(default_factory=SkipReport)
    unlabelled: bool = False

    def __post_init__(self) -> None:
        """Refuse a choice or a list that would have no effect; begin with nothing read."""
        check_choice("cache", self.cache, ("memory", "none"))
        check_choice("class_weights", self.class_weights, (None, "balanced"))
        if self.exclude is not None and isinstance(self.source, tuple | SyntheticFaces):
            raise ValueError(
                "Argument `exclude` must be None but for a folder, packed or not. "
                f"Received: exclude={self.exclude}"
            )
        self._loaded: Faces | None = None
        self._targets: NDArray[np.floating[Any]] | None = None

    def load(
        self,
        *,
        progress: ProgressCallback | None = None,
        say: Callable[[str], None] | None = None,
    ) -> FaceSource:
        """Read, render or check the faces now; a second call does nothing.

        `progress` is called with (done, total) images, `say` with what `exclude` has left out.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: as `face_dataset`.
        """
        if self._loaded is None:
            self._loaded = find_faces(self, progress=progress, say=say)
        return self

    def count(
        self,
        *,
        say: Callable[[str], None] | None = None,
        doubt: Callable[[str], None] | None = None,
    ) -> tuple[int, int]:
        """Return the numbers of faces and people as listed, without opening an image.

        `say` is called with what `exclude` has left out, `doubt` with what looks wrong.
        """
        faces = self._loaded or find_faces(self, read=False, say=say)
        if doubt is not None:
            to_decode = faces.pixels is None and isinstance(faces.index, FolderIndex)
            decoded = len(faces.labels) if to_decode and self.cache == "memory" else 0
            lack = lack_of_room(decoded, self.image_size)
            for text in faces.doubts(self._title) + ([] if lack is None else [lack]):
                doubt(text)
        return len(faces.labels), faces.num_classes

    def doubts(self) -> list[str]:
        """Return a sentence for each thing that looks wrong about the people."""
        return self._faces.doubts(self._title)

    def with_batches(
        self,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        class_weights: Literal["balanced"] | None = None,
        dtype: Literal["float32", "uint8"] = "float32",
    ) -> FaceSource:
        """Return a source of the same faces, read once for both, with other batches."""
        other = copy.copy(self.load())
        other.batch_size, other.augment, other.seed = batch_size, augment, seed
        other.class_weights, other.dtype = class_weights, dtype
        return other

    def with_targets(self, targets: NDArray[np.floating[Any]]) -> FaceSource:
        """Return a source of the same faces whose stream has a target for each image.

        The stream's labels are then pairs `(labels, targets)`, targets float32 (batch, d): a target
        goes with its image through any order, and a mirrored image gets the mirror image's.

        Args:
            targets: (2, n, d), of the faces in order and of their mirror images; may be mapped.

        Example:

        >>> faces = FaceSource(SyntheticFaces(2, 2), image_size=(28, 24), batch_size=2)
        >>> table = np.arange(8.0).reshape(2, 4, 1)
        >>> images, (labels, targets) = next(iter(faces.with_targets(table).stream()))
        >>> targets.shape
        TensorShape([2, 1])
        """
        if targets.ndim != 3 or targets.shape[:2] != (2, len(self)):
            raise error("targets", f"have the shape (2, {len(self)}, d)", targets.shape)
        other = copy.copy(self.load())
        other._targets = targets
        return other

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self._faces.labels)

    @property
    def num_classes(self) -> int:
        """Number of people."""
        return self._faces.num_classes

    @property
    def names(self) -> Sequence[str] | None:
        """The people's folder names; None for arrays and synthetic faces."""
        index = self._faces.index
        return None if index is None else index.names

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; the faces that fill none are dropped."""
        return len(self) // self.batch_size

    def counts(self) -> NDArray[np.int64]:
        """Return how many faces each person has, (num_classes,)."""
        return self._faces.counts()

    def listing(self) -> dict[str, int]:
        """Return how many faces each person has, by name, without opening an image.

        Raises:
            ValueError: the faces are arrays or synthetic: their people have no names.
        """
        faces = self._loaded or find_faces(self, read=False)
        if faces.index is None:
            raise ValueError(f"people without folders have no names. Received: {self._title}")
        return dict(zip(faces.index.names, faces.counts().tolist(), strict=True))

    def describe(self) -> str:
        """Say what the faces are, in a line."""
        less = "" if self.exclude is None else f", without {self.exclude}"
        name = printable(Path(self._title).name)
        return f"{name}: {faces_of(len(self), self.num_classes)}{less}"

    def to_dict(self) -> dict[str, Any]:
        """Return what decides which faces a run sees, ready for JSON; nothing is read for it."""
        faces: dict[str, Any] = {"channel_order": self.channel_order, "resize": self.resize}
        if isinstance(self.source, SyntheticFaces):
            faces |= {"identities": self.source.identities, "images": self.source.images}
        faces["exclude"] = None if self.exclude is None else self.exclude.to_dict()
        return {"data": self._title, "faces": faces}

    def names_of(self, positions: NDArray[np.int64]) -> list[str]:
        """Name faces: their files, or their records."""
        return self._faces.names_of(positions, isinstance(self.source, SyntheticFaces))

    def stream(self, step: int = 0, strategy: tf.distribute.Strategy | None = None) -> Any:
        """Return the endless stream of batches from a step (from 0, over all epochs) on.

        It is a `tf.data.Dataset` as `face_dataset` makes it; under a `strategy` of several worker
        processes a distributed one, of which each gets its part of each batch.
        """

        def make(input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
            options = BatchOptions(
                **self._batch_options(),
                dtype=self.dtype,
                class_weights=self.class_weights,
                repeat=True,
                start_step=step,
                input_context=input_context,
            )
            with tf.device("/cpu:0"):  # what is to be kept in memory is an array by now
                images = open_source(
                    self._faces.pixels,
                    options.image_size,
                    "none",
                    report=self.report,
                    resize=self.resize,
                )
            if self._targets is not None:
                targets = fetch_targets(self._targets)
                images = dataclasses.replace(images, targets=targets)
            return make_dataset(images, options)

        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return make()
        return strategy.distribute_datasets_from_function(lambda part: make(input_context=part))

    def batch_at(
        self, step: int, *, augment: str | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Make one batch of the stream again, with its own augmentation or another one."""
        options = {**self._batch_options(), "augment": augment or self.augment}
        return batch_at(self._faces.pixels, step, resize=self.resize, **options)

    def in_order(
        self,
        dtype: Literal["float32", "uint8"] = "float32",
        *,
        image_size: Size | None = None,
        channel_order: Literal["rgb", "bgr"] | None = None,
        start: int = 0,
    ) -> Any:
        """Return batches of each face once, in order and as it is: a `tf.data.Dataset`.

        `dtype` is as in `face_dataset`; `image_size` and `channel_order` may be others than the
        stream's: files are read, and synthetic faces rendered, at that size. `start` is the first
        batch, from 0.
        """
        options = {**self._batch_options(), "augment": "none"}
        options["channel_order"] = channel_order or self.channel_order
        size = options["image_size"] = image_size or options["image_size"]
        pixels, resize = self._faces.pixels, self.resize
        if tuple(size) != tuple(self.image_size):
            pixels, resize = self._faces.pixels_at(self.source, size), True
        with tf.device("/cpu:0"):
            images = open_source(pixels, size, "none", report=self.report, resize=resize)
        options |= {"shuffle": False, "drop_remainder": False, "start_step": start}
        return make_dataset(images, BatchOptions(**options, dtype=dtype))

    def fingerprint(self) -> str:
        """Return a hash that changes when a face, or their order, does.

        Of files it is over names, sizes and times; of a pack or a RecordIO file over what is kept
        of it; of arrays over their pixels.
        """
        return self._faces.fingerprint(self.source)

    def order(self) -> str:
        """Return a hash of the people's names and of each face's label, and file's name if any.

        A copy of the data has the same; a face or person more, fewer or renamed has another.
        """
        return self._faces.order()

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each face, (n,)."""
        return self._faces.labels

    def image_names(self) -> list[str]:
        """Return `IDENTITY/FILE` of each face, as lists of exclusions name them.

        Raises:
            ValueError: the faces are arrays or synthetic, and no files.
        """
        if self._faces.index is None:
            raise ValueError(f"faces without files have no names. Received: {self._title}")
        return image_names(self._faces.index)

    def files_at(self, step: int) -> list[str]:
        """Name the faces of one batch of the stream."""
        return self.names_of(batch_positions(len(self), self.batch_size, step, seed=self.seed))

    def _batch_options(self) -> dict[str, Any]:
        names = ("image_size", "batch_size", "channel_order", "augment", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def _faces(self) -> Faces:
        self._loaded = self._loaded or find_faces(self)
        return self._loaded

    @property
    def _title(self) -> str:
        if isinstance(self.source, SyntheticFaces):
            return "synthetic"
        return "arrays" if isinstance(self.source, tuple) else os.fspath(self.source)
