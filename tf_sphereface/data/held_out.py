"""People who are kept out of training, to verify on."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.exclusions import Exclusions
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.folder_index import SkipReport


def hold_out(source: FaceSource, people: int, seed: int = 0) -> tuple[FaceSource, FaceSource]:
    """Split people off a source: return the faces to train on, and those of `people` others.

    Those with two images or more are drawn from, by the seed: one image makes no pair. Nothing is
    opened.

    Raises:
        ValueError: there are too few such people, or two would not be left to train on; or the
            faces are arrays or synthetic, whose people have no names.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> folder = synthetic.write_folder(tempfile.mkdtemp(), 5, 2, size=(28, 24))
    >>> rest, held = hold_out(FaceSource(folder, image_size=(28, 24)), 3)
    >>> rest.num_classes, held.num_classes, set(rest.names) & set(held.names)
    (2, 3, set())
    """
    counts = source.listing()
    several = sorted(name for name, count in counts.items() if count > 1)
    most = min(len(several), len(counts) - 2)
    if most < 1:
        raise ValueError(
            f"no people can be kept out of training: there are {len(counts)}, of whom "
            f"{len(several)} have two images or more, and two must be left to train on. "
            f"Received: {people}"
        )
    if not 1 <= people <= most:
        raise ValueError(
            f"of {len(counts)} people, {len(several)} with two images or more, 1 to {most} "
            f"can be kept out of training. Received: {people}"
        )
    drawn = np.random.default_rng(seed).permutation(several)[:people]
    held = frozenset(str(name) for name in drawn)
    before = source.exclude or Exclusions(frozenset(), frozenset())

    def without(names: frozenset[str]) -> FaceSource:
        listed = Exclusions(before.identities | names, before.images)
        return dataclasses.replace(source, exclude=listed, report=SkipReport())

    return without(held), without(frozenset(counts) - held)


def uint8_faces(source: FaceSource) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return all faces of a source as uint8 RGB (n, height, width, 3), and their labels."""
    rgb = dataclasses.replace(source, channel_order="rgb")
    batches = [np.asarray(images) for images, *_ in rgb.in_order(dtype="uint8")]
    return np.concatenate(batches), rgb.labels
