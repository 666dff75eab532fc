"""Labeled Faces in the Wild: verification on the pairs and folds of `pairs.txt`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.embedder import Embedder
from tf_sphereface.eval._checks import check_classes, check_pairs
from tf_sphereface.eval._sources import embed_all, open_source
from tf_sphereface.eval._thresholds import search_named
from tf_sphereface.eval.embeddings import VerificationTable, verify_embeddings
from tf_sphereface.eval.faces import Landmarks, ProgressCallback
from tf_sphereface.eval.pairs import Pairs, read_pairs
from tf_sphereface.eval.precomputed import StoredEmbeddings, StoredScores, open_model

CATEGORIES = {
    "unsupervised": "unsupervised",
    "restricted": "image-restricted with no outside data",
    "unrestricted": "unrestricted with no outside data",
    "restricted-label-free": "image-restricted with label-free outside data",
    "unrestricted-label-free": "unrestricted with label-free outside data",
    "unrestricted-labeled": "unrestricted with labeled outside data",
}
"""LFW's six result categories, in its own words. A network trained on the identities of other
images is in the last one, and so is anything that such a network aligns."""


@dataclasses.dataclass(frozen=True, eq=False)
class ProtocolResult(VerificationTable):
    """A verification protocol's outcome.

    Attributes:
        name: `"lfw"`, `"lfw-view1"`, `"folder"`, `"ytf"`, `"bin"` or `"scores"`.
        protocol: how the headline was measured, in a sentence or two.
        embedder: the embedder that was evaluated, or the stored embeddings or scores.
        pairs: what was compared.
        num_items: how many distinct images (or videos) were embedded.
    """

    name: str
    protocol: str
    embedder: Embedder | StoredEmbeddings | StoredScores
    pairs: Pairs
    num_items: int


LFWResult = ProtocolResult


def evaluate(
    embedder: Any,
    images: str | os.PathLike[str] | None,
    pairs: str | os.PathLike[str] | Pairs,
    landmarks: Landmarks | None = None,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    category: str | None = "unrestricted-labeled",
    search: str = "exact",
) -> LFWResult:
    """Run LFW's View 2, or any list of pairs in its format.

    The folds are those of the file. For each fold the threshold is chosen on the others. Every
    image counts: if any is missing, unreadable or of the wrong size, nothing is evaluated.

    Args:
        embedder: what `load_embedder` takes: a file, a Keras model, or an `Embedder`. Or a `.npz`
            file of embeddings (see `precomputed`), named as in the pairs: `NAME/NAME_0001.jpg`.
        images: the folder that holds `NAME/NAME_0001.jpg`; None with stored embeddings.
        pairs: LFW's `pairs.txt`, or what `read_pairs` returned.
        landmarks: a landmark file, or relative path -> (5, 2) points, by which the images are
            aligned; None when they are aligned already.
        flip: whether mirror images are embedded as well.
        progress: called with (images done, images in all).
        cache: a folder where embeddings are kept, and taken from when model and image are the same
            as before: an evaluation that was killed goes on where it was.
        category: LFW's result category, a key of `CATEGORIES`; None leaves it out of the text.
        search: how thresholds are chosen, as for `verification.evaluate`: `"exact"`, or `"grid"`
            for the SphereFace authors' steps of 1e-4.

    Returns:
        The 2x2 table of flip and mean subtraction. The headline is the plain cosine of image and
        mirror image, concatenated.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: images cannot be used (all are listed), the pairs file is malformed, or the
            category is unknown.
    """
    root = None if images is None else existing_folder("images", images)
    words = _category(category)
    listed = pairs if isinstance(pairs, Pairs) else read_pairs(pairs)
    if len(set(listed.folds.tolist())) == 1:
        raise ValueError(
            "pairs must be in two folds at least: a threshold is chosen on the others. Received: "
            "one fold. A list of one fold, such as View 1's pairsDevTest.txt, needs another to "
            "choose its threshold on: --train-pairs pairsDevTrain.txt (in Python: evaluate_view1)"
        )
    return evaluate_pairs(
        "lfw",
        open_model(embedder),
        root,
        listed,
        landmarks,
        flip,
        progress,
        "of the list",
        cache=cache,
        note=words,
        search=search,
    )


def evaluate_view1(
    embedder: Any,
    images: str | os.PathLike[str] | None,
    train_pairs: str | os.PathLike[str] | Pairs,
    test_pairs: str | os.PathLike[str] | Pairs,
    landmarks: Landmarks | None = None,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    category: str | None = "unrestricted-labeled",
    search: str = "exact",
) -> LFWResult:
    """Run LFW's View 1: the threshold from `pairsDevTrain.txt`, tested on `pairsDevTest.txt`.

    View 1 is for choosing between models, so that View 2 stays unseen until the end. Its figure is
    not LFW's accuracy.

    Args:
        embedder: as for `evaluate`.
        images: as for `evaluate`.
        train_pairs: the list that chooses the threshold, or what `read_pairs` returned.
        test_pairs: the list that is tested.
        landmarks: as for `evaluate`.
        flip: as for `evaluate`.
        progress: as for `evaluate`.
        cache: as for `evaluate`.
        category: as for `evaluate`.
        search: as for `evaluate`.

    Returns:
        The 2x2 table, of the tested pairs; mean subtraction takes the mean over the training pairs.
        The standard error is the binomial one.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: as for `evaluate`.
    """
    root = None if images is None else existing_folder("images", images)
    words = _category(category)
    model = open_model(embedder)
    train, test = (p if isinstance(p, Pairs) else read_pairs(p) for p in (train_pairs, test_pairs))
    for argument, part in (("train_pairs", train), ("test_pairs", test)):
        check_classes(part.is_same, argument)
    search_named(search)
    both = Pairs(
        train.left + test.left,
        train.right + test.right,
        np.concatenate([train.is_same, test.is_same]),
        np.repeat(np.array([1, 2]), [len(train), len(test)]),
    )
    names, left, right = both.images()
    plain, mirrored = embed_all(open_source(model, root, landmarks, flip, cache), names, progress)
    table = verify_embeddings(
        plain,
        mirrored,
        left,
        right,
        both.is_same,
        both.folds,
        names,
        labels=people(names),
        test_fold=2,
        search=search,
    ).table
    vector = _vector(mirrored is not None)
    return ProtocolResult(
        table=table,
        name="lfw-view1",
        protocol=(
            f"View 1, for choosing between models and not for publication: {_count(test)} of "
            f"{len(names):,} images (with the training pairs'); cosine of the embeddings of "
            f"{vector}; threshold chosen on {len(train):,} training pairs{on_grid(search)}; "
            f"accuracy and its binomial standard error.{_aligned(landmarks)}{words}"
        ),
        embedder=model,
        pairs=test,
        num_items=len(names),
    )


def evaluate_pairs(
    name: str,
    model: Embedder | StoredEmbeddings,
    root: Path | None,
    pairs: Pairs,
    landmarks: Landmarks | None,
    flip: bool,
    progress: ProgressCallback | None,
    origin: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    note: str = "",
    search: str = "exact",
) -> ProtocolResult:
    """Embed the images of `pairs`, each once, and evaluate.

    Args:
        name: of the protocol.
        model: what `open_model` returned.
        root: the folder of the images, None with stored embeddings.
        pairs: what is compared.
        landmarks: as for `evaluate`.
        flip: as for `evaluate`.
        progress: as for `evaluate`.
        origin: where the folds are from, in words.
        cache: as for `evaluate`.
        note: a sentence more, with a space before it.
        search: as for `evaluate`.

    Returns:
        The result.

    Raises:
        ValueError: as for `evaluate`.
    """
    check_pairs(pairs.is_same, pairs.folds, search)
    names, left, right = pairs.images()
    plain, mirrored = embed_all(open_source(model, root, landmarks, flip, cache), names, progress)
    table = verify_embeddings(
        plain,
        mirrored,
        left,
        right,
        pairs.is_same,
        pairs.folds,
        names,
        labels=people(names),
        search=search,
    ).table
    return ProtocolResult(
        table=table,
        name=name,
        protocol=describe(pairs, f"{len(names):,} images", mirrored is not None, origin, search)
        + _aligned(landmarks)
        + note,
        embedder=model,
        pairs=pairs,
        num_items=len(names),
    )


def describe(pairs: Pairs, items: str, flip: bool, origin: str, search: str = "exact") -> str:
    """Say how a headline was measured."""
    folds = len(set(pairs.folds.tolist()))
    return (
        f"{_count(pairs)} of {items} in the {folds} folds {origin}; cosine of the embeddings of "
        f"{_vector(flip)}; {over_folds(folds, search)}"
    )


def over_folds(folds: int, search: str = "exact") -> str:
    """Say how thresholds were chosen, and what the headline is, as the end of a sentence."""
    others = "the other" if folds == 2 else f"the {folds - 1} others"
    return (
        f"each fold's threshold chosen on {others}{on_grid(search)}; mean accuracy and its "
        "standard error over the folds."
    )


def on_grid(search: str) -> str:
    """Say of the authors' grid that it is one; with a space before it."""
    return " from the authors' grid of 1e-4" if search == "grid" else ""


def people(names: list[str]) -> list[str]:
    """Return who is in each image or video: the first folder of its path."""
    return [name.split("/")[0] for name in names]


def existing_folder(argument: str, path: str | os.PathLike[str]) -> Path:
    """Return a folder's path, or raise a FileNotFoundError that names the argument."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{argument} must be a folder that exists. Received: {str(folder)!r}"
        )
    return folder


def _count(pairs: Pairs) -> str:
    genuine = int(pairs.is_same.sum())
    return f"{len(pairs):,} pairs ({genuine:,} genuine, {len(pairs) - genuine:,} impostor)"


def _vector(flip: bool) -> str:
    return "image and mirror image, concatenated" if flip else "the image alone"


def _aligned(landmarks: Landmarks | None) -> str:
    return "" if landmarks is None else " Aligned by the given landmarks."


def _category(category: str | None) -> str:
    """Return LFW's words for a result category as a sentence, with a space before it."""
    if category is None:
        return ""
    if category not in CATEGORIES:
        raise ValueError(
            f"category must be None or one of {', '.join(CATEGORIES)}. Received: {category!r}"
        )
    return f" LFW's result category: {CATEGORIES[category]}."
