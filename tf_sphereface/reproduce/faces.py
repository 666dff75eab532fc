"""The faces that the arms are trained and verified on, decoded once and kept in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface import data
from tf_sphereface.data.synthetic.render import UNSEEN
from tf_sphereface.utils.messages import ProgressCallback

Size = tuple[int, int]
ENVIRONMENT_VARIABLE = "TF_SPHEREFACE_DATA"


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Faces to train on, and pairs of other people. Images are uint8 RGB (n, height, width, 3)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]  # from 0
    test_images: NDArray[np.uint8]
    people: NDArray[Any]  # who is on each of the test images
    left: NDArray[np.int64]  # positions in `test_images`, (pairs,) as all that follow
    right: NDArray[np.int64]
    is_same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    about: dict[str, Any]  # "real", "train" and "test" in words; `fingerprinted` adds hashes

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    def fingerprinted(self) -> Faces:
        """Return the same with two hashes in `about`: `"pairs"`, of any size; and `"content"`.

        Results of other pairs are not comparable, and those of other content are out of date.
        """
        pairs = (self.people, self.left, self.right, self.is_same, self.folds)
        content = (self.images, self.labels, self.test_images, *pairs)
        hashes = {"pairs": _digest(pairs), "content": _digest(content)}
        return dataclasses.replace(self, about={**self.about, **hashes})


def _digest(arrays: Sequence[NDArray[Any]]) -> str:
    found = hashlib.blake2b(digest_size=12)
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()


def find_real(
    folder: str | os.PathLike[str] | None, lfw: str | os.PathLike[str] | None
) -> tuple[Path, Path] | None:
    """Return the folders of training faces and of LFW, or None where no data is named.

    `folder` holds one folder a person, of aligned faces; `lfw` holds `images/NAME/NAME_0001.jpg`,
    `pairs.txt` and, where the images are not aligned, `landmarks.tsv`. None takes `celeba_faces`
    and `lfw_subset` of the folder that the environment variable `TF_SPHEREFACE_DATA` names.
    """
    root = os.environ.get(ENVIRONMENT_VARIABLE)
    train = folder or (Path(root) / "celeba_faces" if root else None)
    test = lfw or (Path(root) / "lfw_subset" if root else None)
    if train is None and test is None:
        return None
    if train is None or test is None:
        raise ValueError(
            "training faces and LFW belong together: give --data and --lfw, or name the folder of "
            f"both in {ENVIRONMENT_VARIABLE}. Received: {train and str(train)!r} and "
            f"{test and str(test)!r}"
        )
    for name, path in (("training faces", Path(train)), ("LFW", Path(test))):
        if not path.is_dir():
            raise FileNotFoundError(f"the folder of {name} must exist. Received: {str(path)!r}")
    for needed in ("images", "pairs.txt"):
        if not (Path(test) / needed).exists():
            raise FileNotFoundError(f"the folder of LFW must hold {needed}. Received: {test}")
    return Path(train), Path(test)


def real_faces(
    train: Path, lfw: Path, size: Size, progress: ProgressCallback | None = None
) -> Faces:
    """Read both folders at one size; larger faces are averaged down.

    `progress` is called while the training faces are decoded. An image of the pairs that cannot be
    used is a ValueError.
    """
    from tf_sphereface.alignment.face_reader import FaceReader, Problems, iterate_faces
    from tf_sphereface.eval.pairs import read_pairs

    images, labels, index = data.load_folder(train, image_size=size, resize=True, progress=progress)
    pairs = read_pairs(lfw / "pairs.txt")
    names, left, right = pairs.images()
    landmarks = lfw / "landmarks.tsv"
    reader = FaceReader(size, landmarks if landmarks.is_file() else None)
    problems = Problems()
    read = list(iterate_faces(lfw / "images", names, reader, problems))
    problems.raise_if_any(len(names), lfw / "images")
    return Faces(
        images,
        labels,
        np.concatenate(read),
        np.array([name.split("/")[0] for name in names]),
        np.asarray(left),
        np.asarray(right),
        pairs.is_same,
        pairs.folds,
        {
            "real": True,
            "train": f"{len(labels):,} faces of {len(index.names):,} people",
            "test": f"{len(pairs):,} pairs of LFW's View 2, "
            f"{len(np.unique(pairs.folds))} folds, {len(names):,} images",
        },
    ).fingerprinted()


def synthetic_faces(people: int, images: int, size: Size, *, pairs_per_fold: int) -> Faces:
    """Render faces to train on, and pairs of as many other people."""
    pictures, labels = data.synthetic.training_set(people, images, size=size)
    folds = min(10, people // 2)
    test = data.synthetic.verification_set(
        people, pairs_per_fold=pairs_per_fold, folds=folds, first_identity=UNSEEN, size=size
    )
    return Faces(
        pictures,
        labels,
        test.images,
        test.identities,
        test.left,
        test.right,
        test.is_same,
        test.folds,
        {
            "real": False,
            "train": f"{len(labels):,} synthetic faces of {people:,} people",
            "test": f"{len(test.is_same):,} pairs of {people:,} other synthetic people, "
            f"{folds} folds",
        },
    ).fingerprinted()
