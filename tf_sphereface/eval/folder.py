"""A folder of identity folders as a verification protocol: random pairs by a seed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.alignment.face_reader import Landmarks
from tf_sphereface.alignment.listing import images_in, people_in
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.alignment.same_pictures import repeats_in_words
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.protocol import ProtocolResult, evaluate_pairs, existing_folder
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, open_embedder
from tf_sphereface.utils.messages import ProgressCallback
from tf_sphereface.utils.people_names import alike_names

logger = logging.getLogger("tf_sphereface")
__all__ = [
    "evaluate",
    "random_pairs",
]


def evaluate(
    embedder: Any,
    root: str | os.PathLike[str],
    pairs_per_fold: int = 300,
    folds: int | None = 10,
    seed: int = 0,
    landmarks: Landmarks | None = None,
    *,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    cache: str | os.PathLike[str] | None = None,
    search: Search = "exact",
    strict: bool = False,
) -> ProtocolResult:
    """Verify on random pairs of a folder that holds one folder per identity.

    Use identities that the model was not trained on, or the figure says nothing.

    Args:
        embedder: what `load_embedder` takes, or a `.npz` file of embeddings, named by their paths
            relative to `root`.
        root: the folder.
        pairs_per_fold: genuine pairs of each fold, and as many impostor pairs; fewer where the
            folder does not hold so many.
        folds: how many; each identity's images are in one fold only.
        seed: of the choice of folds and pairs.
        landmarks: as for `lfw.evaluate`; names are relative to `root`.
        flip: whether mirror images are embedded as well.
        progress: called with (images done, images in all).
        cache: as for `lfw.evaluate`.
        search: as for `lfw.evaluate`.
        strict: raise where images are passed over, rather than warn.

    Returns:
        The same table as `lfw.evaluate` gives; `.pairs` holds the pairs that were drawn.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: too few identities or images for the folds; images that cannot be used.

    Example:

    >>> import tempfile
    >>> import keras, tf_sphereface as sf
    >>> folder = sf.data.synthetic.write_folder(tempfile.mkdtemp(), 8, 4, size=(28, 24))
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> embedder = sf.load_embedder(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> result = evaluate(embedder, folder, pairs_per_fold=4, folds=2)
    >>> len(result.headline.scores)
    16
    """
    folder = existing_folder("root", root)
    pairs = random_pairs(folder, pairs_per_fold, folds, seed, strict=strict)
    options = EmbeddingOptions(flip, landmarks, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    origin = f"that seed {seed} draws, with identities disjoint between folds"
    return evaluate_pairs("folder", model, folder, pairs, options, origin, search=search)


def random_pairs(
    root: str | os.PathLike[str],
    pairs_per_fold: int = 300,
    folds: int | None = 10,
    seed: int = 0,
    *,
    strict: bool = False,
) -> Pairs:
    """Draw verification pairs from a folder of identity folders.

    The identities are dealt to the folds; within a fold distinct genuine pairs are drawn uniformly
    from all its genuine pairs, and distinct impostor pairs likewise. Every fold gets the same
    number of both: `pairs_per_fold`, or what the poorest fold holds.

    Args:
        root: the folder.
        pairs_per_fold: pairs of each class in a fold, at most.
        folds: how many, two at least; None: 10, or as many as the people allow.
        seed: the same seed and files give the same pairs.
        strict: raise where images are passed over, rather than warn.

    Returns:
        The pairs, with paths relative to `root`.

    Raises:
        ValueError: the folder is too small for the folds; with `strict`, images are passed over.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> pairs = random_pairs(synthetic.write_folder("faces", 4, 2), pairs_per_fold=1, folds=2)
    >>> pairs.is_same.tolist(), pairs.folds.tolist()
    ([True, False, True, False], [1, 1, 2, 2])
    """
    return draw_pairs(scan(Path(root), strict), pairs_per_fold, folds, seed, where=str(root))


def draw_pairs(
    identities: dict[str, list[str]],
    pairs_per_fold: int = 300,
    folds: int | None = 10,
    seed: int = 0,
    *,
    where: str = "the data",
) -> Pairs:
    """Draw pairs as `random_pairs` from identity -> names of images."""
    if folds is None:
        folds = max(2, min(10, _most_folds(identities)))
    if folds < 2 or pairs_per_fold < 1:
        raise ValueError(
            "folds must be at least 2 and pairs_per_fold at least 1. "
            f"Received: {folds} and {pairs_per_fold}"
        )
    rng = np.random.default_rng(seed)
    lists = list(identities.values())
    shuffled = [lists[i] for i in rng.permutation(len(lists))]
    shuffled.sort(key=lambda files: len(files) < 2)  # so that every fold gets several images
    members = [shuffled[k::folds] for k in range(folds)]
    if not all(_num_genuine(fold) and _num_impostor(fold) for fold in members):
        raise ValueError(_too_few(where, identities, folds))
    count = min(pairs_per_fold, *(min(_num_genuine(fold), _num_impostor(fold)) for fold in members))
    drawn: list[tuple[str, str]] = []
    for fold in members:
        drawn += _genuine(fold, count, rng)
        drawn += _impostor(fold, count, rng)
    left, right = map(list, zip(*drawn, strict=True))
    is_same = np.tile(np.repeat([True, False], count), folds)
    return Pairs(left, right, is_same, np.repeat(np.arange(1, folds + 1), 2 * count))


def _several(identities: dict[str, list[str]]) -> int:
    """Return how many people have two images or more."""
    return sum(len(files) > 1 for files in identities.values())


def _most_folds(identities: dict[str, list[str]]) -> int:
    """Return how many folds have two people each, one of them with two images."""
    return min(_several(identities), len(identities) // 2)


def _too_few(root: str, identities: dict[str, list[str]], folds: int) -> str:
    """Say what a folder lacks for the folds, and the most folds that it can give, if it can."""
    several, most = _several(identities), _most_folds(identities)
    advice = f"{most} folds are possible" if most >= 2 else "that is too few for any folds"
    return (
        f"{root} must hold two identities for each of {folds} folds, one of them with two images. "
        f"Received: {len(identities)} identities, {several} of them with two images or more; "
        f"{advice}"
    )


def scan(root: Path, strict: bool = False) -> dict[str, list[str]]:
    """Return identity -> sorted relative paths of the images in a folder of identity folders.

    Hidden files and folders are passed over, as in training. Images that are passed over, because
    nothing here reads them or they lie elsewhere, are a warning, with `strict` a ValueError; so is
    a folder without people. The log says which people may be one, by their names, and which
    pictures are there twice.
    """
    passed_over = PassedOver()
    identities = {
        name: [f"{name}/{entry.name}" for entry in images]
        for name, images in people_in(root, passed_over)
    }
    passed_over.settle(root, strict)
    files = [(name, root / image) for name, images in identities.items() for image in images]
    for text in (alike_names(identities, str(root)), *repeats_in_words(files, str(root))):
        if text is not None:
            logger.warning("%s", text)
    return identities


def image_names(folder: Path, passed_over: PassedOver | None = None) -> list[str]:
    """Return the sorted names of the images in a folder; hidden ones are passed over."""
    return [entry.name for entry in images_in(folder, passed_over)]


def _num_genuine(fold: list[list[str]]) -> int:
    return sum(len(files) * (len(files) - 1) // 2 for files in fold)


def _num_impostor(fold: list[list[str]]) -> int:
    total = sum(len(files) for files in fold)
    return (total * total - sum(len(files) ** 2 for files in fold)) // 2


def _genuine(fold: list[list[str]], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Number all genuine pairs, draw numbers, and turn each back into a pair."""
    sizes = np.array([len(files) * (len(files) - 1) // 2 for files in fold])
    ends = np.cumsum(sizes)
    pairs = []
    for number in rng.choice(int(ends[-1]), count, replace=False):
        identity = int(np.searchsorted(ends, number, side="right"))
        rank = int(number - (ends[identity] - sizes[identity]))
        second = int((1 + np.sqrt(1 + 8 * rank)) // 2)  # the pairs (i, j), i < j, ordered by j
        second += rank >= second * (second + 1) // 2
        second -= rank < second * (second - 1) // 2
        first = rank - second * (second - 1) // 2
        pairs.append((fold[identity][first], fold[identity][second]))
    return pairs


def _impostor(fold: list[list[str]], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw pairs of images until enough are of two identities and distinct."""
    files = [file for members in fold for file in members]
    owner = np.repeat(np.arange(len(fold)), [len(members) for members in fold])
    if _num_impostor(fold) < 4 * count:  # few pairs: list them all
        every = np.column_stack(np.triu_indices(len(files), 1))
        every = every[owner[every[:, 0]] != owner[every[:, 1]]]
        picked = every[rng.choice(len(every), count, replace=False)]
        return [(files[i], files[j]) for i, j in picked]
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < count:
        draws = rng.integers(0, len(files), (count, 2))
        for i, j in np.sort(draws, axis=1):
            if owner[i] != owner[j] and len(chosen) < count:
                chosen[int(i), int(j)] = None
    return [(files[i], files[j]) for i, j in chosen]
