"""Synthetic faces: labelled data for everything here, drawn on demand, the same on every machine.

A picture is a pure function of `(seed, identity, sample)`. An identity is some sixty numbers: the
shape of face, eyes, brows, nose, mouth and hair, and colours. A sample is its nuisance: pose,
light, expression, glasses or an object in front, hair style, blur, noise, background. Any index is
an identity, so there are always faces that were never trained on: choose another range.

The faces are cartoons. What is measured on them compares methods; it says nothing about people.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.data.options import Size
from tf_sphereface.data.synthetic.geometry import HEIGHT, WIDTH
from tf_sphereface.data.synthetic.identity import draw_identity
from tf_sphereface.data.synthetic.nuisance import draw_nuisance, draw_path
from tf_sphereface.data.synthetic.pairs import VerificationSet, draw_pairs
from tf_sphereface.data.synthetic.render import UNSEEN, Images, render, resized, write_jpeg
from tf_sphereface.utils import checks
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.messages import ProgressCallback


def faces(
    identities: ArrayLike,
    samples: ArrayLike,
    *,
    seed: int = 0,
    size: Size = (HEIGHT, WIDTH),
    progress: ProgressCallback | None = None,
) -> Images:
    """Render pictures of given identities.

    Args:
        identities: integers >= 0; broadcast against `samples`.
        samples: integers >= 0, which picture of that identity.
        seed: population, >= 0; another seed is another set of people.
        size: (height, width) in pixels. Faces are rendered at 112 x 96 and averaged down to a
            smaller size; another aspect ratio stretches them.
        progress: called with (rendered, total) now and then.

    Returns:
        uint8 RGB (n, height, width, 3), n the number of identities after broadcasting.

    Raises:
        ValueError: an index or the seed is negative or no integer, the arguments do not broadcast,
            or the size is no pair of positive integers.

    Example:

    >>> faces([0, 0, 1], [0, 1, 0], size=(56, 48)).shape
    (3, 56, 48, 3)
    """
    who, which = _indices("identities", identities), _indices("samples", samples)
    try:
        who, which = (np.atleast_1d(array) for array in np.broadcast_arrays(who, which))
    except ValueError as error:
        raise ValueError(
            "identities and samples must have shapes that broadcast. "
            f"Received: {who.shape} and {which.shape}"
        ) from error
    if who.ndim != 1:
        raise ValueError(f"identities and samples must be one-dimensional. Received: {who.shape}")
    seed, size = checks.check_integer("seed", seed, 0), checks.check_image_size("size", size)
    images = np.empty((len(who), *size, 3), np.uint8)
    for i, (identity, sample) in enumerate(zip(who.tolist(), which.tolist(), strict=True)):
        picture = render(draw_identity(seed, identity), draw_nuisance(seed, identity, sample))
        images[i] = resized(picture, size)
        if progress is not None and ((i + 1) % 100 == 0 or i + 1 == len(who)):
            progress(i + 1, len(who))
    return images


def training_set(
    num_identities: int,
    images_per_identity: int,
    *,
    seed: int = 0,
    first_identity: int = 0,
    size: Size = (HEIGHT, WIDTH),
    progress: ProgressCallback | None = None,
) -> tuple[Images, NDArray[np.int32]]:
    """Render `images_per_identity` pictures of each of `num_identities` consecutive people.

    The first person has the index `first_identity`; `seed`, `size` and `progress` are as for
    `faces`.

    Returns:
        Images, uint8 RGB (n, height, width, 3), and labels, int32 (n,) from 0 to
        `num_identities - 1`; `n = num_identities * images_per_identity`, ordered by label.

    Raises:
        ValueError: a count is not positive, or an argument of `faces` is wrong.

    Example:

    >>> images, labels = training_set(3, 2, size=(56, 48))
    >>> labels.tolist()
    [0, 0, 1, 1, 2, 2]
    """
    num_identities = checks.check_integer("num_identities", num_identities, 1)
    images_per_identity = checks.check_integer("images_per_identity", images_per_identity, 1)
    labels = np.repeat(np.arange(num_identities, dtype=np.int32), images_per_identity)
    samples = np.tile(np.arange(images_per_identity), num_identities)
    first = int(_indices("first_identity", first_identity))
    images = faces(
        labels.astype(np.int64) + first, samples, seed=seed, size=size, progress=progress
    )
    return images, labels


def verification_set(
    num_identities: int,
    *,
    pairs_per_fold: int = 200,
    folds: int = 10,
    images_per_identity: int = 8,
    seed: int = 0,
    first_identity: int = UNSEEN,
    size: Size = (HEIGHT, WIDTH),
    progress: ProgressCallback | None = None,
) -> VerificationSet:
    """Draw genuine and impostor pairs in folds, as LFW's View 2 does.

    Each fold has its own people, so no person is in two folds. Half of a fold's pairs are two
    pictures of one person, half are pictures of two people drawn at random; no pair comes twice.
    Open-set: keep `[first_identity, first_identity + num_identities)` apart from the identities
    that were trained on; by default they are far from those of `training_set`. `pairs_per_fold`
    counts genuine and impostor pairs together, and is even. The other arguments are those of
    `training_set`, and `seed` draws the pairs too.

    Returns:
        The images and pairs; fold by fold, genuine pairs first.

    Raises:
        ValueError: `pairs_per_fold` is odd, there are too few people for the folds, or too few
            distinct pairs.

    Example:

    >>> pairs = verification_set(20, pairs_per_fold=4, folds=5, first_identity=1000, size=(56, 48))
    >>> pairs.left.shape, int(pairs.is_same.sum())
    ((20,), 10)
    """
    left, right, is_same, fold = draw_pairs(
        num_identities, pairs_per_fold, folds, images_per_identity, seed
    )
    images, labels = training_set(
        num_identities,
        images_per_identity,
        seed=seed,
        first_identity=first_identity,
        size=size,
        progress=progress,
    )
    return VerificationSet(
        images, left, right, is_same, fold, labels.astype(np.int64) + int(first_identity)
    )


def video(
    identity: int, frames: int, *, seed: int = 0, size: Size = (HEIGHT, WIDTH), clip: int = 0
) -> Images:
    """Render a video: one identity, while pose, light and expression move smoothly.

    Background, clothes, hair style and what is worn stay; sensor noise is new in each frame. A
    shorter video is the beginning of a longer one; `clip`, >= 0, numbers the videos of an identity.
    `seed` and `size` are as for `faces`.

    Returns:
        uint8 RGB (frames, height, width, 3).

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> video(3, 5, size=(56, 48)).shape
    (5, 56, 48, 3)
    """
    who, which = int(_indices("identity", identity)), int(_indices("clip", clip))
    frames = checks.check_integer("frames", frames, 1)
    seed, size = checks.check_integer("seed", seed, 0), checks.check_image_size("size", size)
    person = draw_identity(seed, who)
    path = draw_path(seed, who, which, frames)
    return np.stack([resized(render(person, nuisance), size) for nuisance in path])


def write_folder(
    root: str | os.PathLike[str],
    num_identities: int,
    images_per_identity: int,
    *,
    seed: int = 0,
    first_identity: int = 0,
    size: Size = (HEIGHT, WIDTH),
    pairs_per_fold: int | None = None,
    folds: int = 10,
    quality: int = 95,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write faces as `root/NAME/NAME_0001.jpg`, the layout that every command reads.

    The names are `Person_<identity, six digits>`. The folder is created when missing; files in it
    with these names are replaced. With `pairs_per_fold`, `root/pairs.txt` is written in LFW's
    format, as `verification_set` draws the pairs. `quality`, 1 to 100, is that of the JPEG files;
    the other arguments are those of `training_set`. Returns the root.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> import tempfile
    >>> folder = write_folder(tempfile.mkdtemp(), 2, 3, size=(56, 48))
    >>> sorted(path.name for path in folder.glob("*/*"))[:2]
    ['Person_000000_0001.jpg', 'Person_000000_0002.jpg']
    """
    root, seed = Path(root), checks.check_integer("seed", seed, 0)
    count = checks.check_integer("images_per_identity", images_per_identity, 1)
    first, people = int(first_identity), checks.check_integer("num_identities", num_identities, 1)
    lines: list[str] = []
    if pairs_per_fold is not None:
        left, right, is_same, _ = draw_pairs(people, pairs_per_fold, folds, count, seed)
        lines.append(f"{folds}\t{pairs_per_fold // 2}")
        for a, b, same in zip(left, right, is_same, strict=True):
            other = "" if same else f"Person_{first + b // count:06d}\t"
            one = f"Person_{first + a // count:06d}\t{a % count + 1}"
            lines.append(f"{one}\t{other}{b % count + 1}")
    for index in range(people):
        name = f"Person_{first + index:06d}"
        (root / name).mkdir(parents=True, exist_ok=True)
        pictures = faces(first + index, np.arange(count), seed=seed, size=size)
        for number, picture in enumerate(pictures, start=1):
            write_jpeg(root / name / f"{name}_{number:04d}.jpg", picture, quality)
        if progress is not None:
            progress((index + 1) * count, people * count)
    if lines:
        with atomic_path(root / "pairs.txt") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _indices(name: str, value: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(value)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise checks.error(name, "be integers >= 0", value)
    return array.astype(np.int64)
