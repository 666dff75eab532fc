"""Labeled Faces in the Wild: verification on the pairs and folds of `pairs.txt`."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import numpy as np

from tf_sphereface.alignment.face_reader import Landmarks
from tf_sphereface.eval.measures.checks import check_classes
from tf_sphereface.eval.measures.thresholds import SEARCHES, Search
from tf_sphereface.eval.pairs import Pairs, locate, read_pairs
from tf_sphereface.eval.protocol import (
    ProtocolResult,
    alignment_note,
    describe,
    evaluate_pairs,
    existing_folder,
    on_grid,
    verify_images,
)
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, open_embedder
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.messages import ProgressCallback, counted

logger = logging.getLogger("tf_sphereface")

__all__ = [
    "CATEGORIES",
    "evaluate",
    "evaluate_view1",
]

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
    search: Search = "exact",
) -> ProtocolResult:
    """Run LFW's View 2, or any list of pairs in its format.

    The folds are those of the file. For each fold the threshold is chosen on the others. Every
    image counts: if any is missing, unreadable or of the wrong size, nothing is evaluated. The
    result has the list's own name (`pairs.list_name`): `xqlfw_pairs.txt` is not taken for LFW, and
    has neither its result category nor its published figures.

    Args:
        embedder: what `load_embedder` takes: a file, a Keras model, or an `Embedder`. Or a `.npz`
            file of embeddings (`StoredEmbeddings`), named as in the pairs: `NAME/NAME_0001.jpg`.
        images: the folder that holds `NAME/NAME_0001.jpg`, or the same name with another image's
            suffix; None with stored embeddings.
        pairs: LFW's `pairs.txt`, or what `read_pairs` returned.
        landmarks: a landmark file, or relative path -> (5, 2) points, by which the images are
            aligned; None when they are aligned already.
        flip: whether mirror images are embedded as well.
        progress: called with (images done, images in all).
        cache: a folder where embeddings are kept, and taken from when model and image are the same
            as before: an evaluation that was killed goes on where it was.
        category: LFW's result category, a key of `CATEGORIES`; None leaves it out of the text, as
            a list of another name does.
        search: how thresholds are chosen, as for `verification.evaluate`: `"exact"`, or `"grid"`
            for the SphereFace authors' steps of 1e-4.

    Returns:
        The 2x2 table of flip and mean subtraction. The headline is the plain cosine of image and
        mirror image, concatenated.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: images cannot be used (the first are listed), the pairs file is malformed, or
            the category is unknown.

    Example:

    >>> import tempfile
    >>> import keras, tf_sphereface as sf
    >>> folder = sf.data.synthetic.write_folder(
    ...     tempfile.mkdtemp(), 8, 4, pairs_per_fold=4, folds=2, size=(28, 24))
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> embedder = sf.load_embedder(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> result = evaluate(embedder, images=folder, pairs=folder / "pairs.txt")
    >>> 0 <= result.accuracy <= 1, len(result.fold_accuracies)
    (True, 2)
    """
    root = None if images is None else existing_folder("images", images)
    category_note = _category(category)
    listed = pairs if isinstance(pairs, Pairs) else read_pairs(pairs)
    if listed.num_folds == 1:
        raise ValueError(
            "pairs must be in two folds at least: a threshold is chosen on the others. Received: "
            "one fold. A list of one fold, such as View 1's pairsDevTest.txt, needs another to "
            "choose its threshold on: --train-pairs pairsDevTrain.txt (in Python: evaluate_view1)"
        )
    options = EmbeddingOptions(flip, landmarks, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    listed = listed if root is None else locate(listed, root)
    name = listed.name or "lfw"
    result = evaluate_pairs(name, model, root, listed, options, "of the list", search=search)
    protocol = result.protocol + category_note if name == "lfw" else f"{name}: {result.protocol}"
    return dataclasses.replace(result, protocol=protocol)


def evaluate_view1(
    embedder: Any,
    images: str | os.PathLike[str] | None,
    train_pairs: str | os.PathLike[str] | Pairs,
    test_pairs: str | os.PathLike[str] | Pairs,
    landmarks: Landmarks | None = None,
    *,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    cache: str | os.PathLike[str] | None = None,
    category: str | None = "unrestricted-labeled",
    search: Search = "exact",
) -> ProtocolResult:
    """Run LFW's View 1: the threshold from `pairsDevTrain.txt`, tested on `pairsDevTest.txt`.

    View 1 is for choosing between models, so that View 2 stays unseen until the end. Its figure is
    not LFW's accuracy. `train_pairs` chooses the threshold, `test_pairs` is tested (files, or what
    `read_pairs` returned); the other arguments and the errors are those of `evaluate`.

    Returns:
        The 2x2 table, of the tested pairs; mean subtraction takes the mean over the training pairs.
        The standard error is the binomial one.

    Example:

    >>> from tf_sphereface.eval.scoring import write_embeddings
    >>> images = [f"{name}/{name}_000{k}.jpg" for name in "AB" for k in (1, 2)]
    >>> write_embeddings("faces.npz", images, [[1, 0], [2, 0], [0, 1], [0, 2]])
    >>> train = Pairs(images[:1] * 2, images[1:3], np.array([True, False]), np.ones(2, int))
    >>> test = Pairs(images[2:3] * 2, images[3:] + images[:1], train.is_same, train.folds)
    >>> evaluate_view1("faces.npz", None, train, test).accuracy
    1.0
    """
    root = None if images is None else existing_folder("images", images)
    category_note = _category(category)
    options = EmbeddingOptions(flip, landmarks, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    train, test = (p if isinstance(p, Pairs) else read_pairs(p) for p in (train_pairs, test_pairs))
    if root is not None:
        train, test = locate(train, root), locate(test, root)
    for argument, part in (("train_pairs", train), ("test_pairs", test)):
        check_classes(part.is_same, argument)
    listed = [{tuple(sorted(p)) for p in zip(x.left, x.right, strict=True)} for x in (train, test)]
    if shared := listed[0] & listed[1]:
        logger.warning(
            "train_pairs and test_pairs share %s, such as %s: the threshold is chosen on what it "
            "is tested on",
            counted(len(shared), "pair"),
            " and ".join(min(shared)),
        )
    check_choice("search", search, tuple(SEARCHES))
    both = Pairs(
        train.left + test.left,
        train.right + test.right,
        np.concatenate([train.is_same, test.is_same]),
        np.repeat(np.array([1, 2]), [len(train), len(test)]),
    )
    scored, num_images = verify_images(model, root, both, options, test_fold=2, search=search)
    measured = describe(
        test,
        f"{num_images:,} images (with the training pairs')",
        scored.headline_key[0],
        f"threshold chosen on {len(train):,} training pairs{on_grid(search)}; accuracy and its "
        "binomial standard error.",
    )
    name = test.name or "lfw"
    about = "View 1" if name == "lfw" else f"{name}, as View 1"
    return ProtocolResult(
        table=scored.table,
        norms=scored.norms,
        name=f"{name}-view1",
        protocol=f"{about}, for choosing between models and not for publication: {measured}"
        + alignment_note(options)
        + (category_note if name == "lfw" else ""),
        embedder=model,
        pairs=test,
        num_items=num_images,
    )


def _category(category: str | None) -> str:
    """Return LFW's words for a result category as a sentence, with a space before it."""
    if category is None:
        return ""
    if category not in CATEGORIES:
        raise ValueError(
            f"category must be None or one of {', '.join(CATEGORIES)}. Received: {category!r}"
        )
    return f" LFW's result category: {CATEGORIES[category]}."
