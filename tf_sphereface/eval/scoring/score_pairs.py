"""Scores of pairs of embeddings, and their evaluation with and without mirror images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.embedder.embedder import Embedder, embed_sides, load_embedder
from tf_sphereface.eval import verification
from tf_sphereface.eval.measures.angles import angular_fisher_score, norms_of
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, embed_all, embedding_source
from tf_sphereface.eval.verification import VerificationResult

Flip = Literal["none", "concat", "sum"]
HEADLINES = ("flip", "sum", "scores", "none")  # the first that was measured is the headline
_BLOCK = 65_536  # pairs scored at a time


@dataclasses.dataclass(frozen=True, eq=False)
class VerificationTable:
    """The same pairs scored in up to four ways.

    The headline's figures are attributes of the table too: `accuracy`, `std_error`,
    `fold_accuracies`, `thresholds`, `auc`, `eer`, `tar_at_far`, `genuine_angle`, `impostor_angle`.

    Attributes:
        table: (flip, mean) -> result. `flip` is `"none"`, or `"flip"` for the embeddings of image
            and mirror image, concatenated, `"sum"` for their sum, `"scores"` where only scores were
            given; `mean` is `"plain"`, or `"mean_subtracted"` where the mean embedding of the other
            folds is subtracted before the cosine.
        norms: name of an image (or video) -> length of its embedding before any scaling, of image
            and mirror image concatenated where both were embedded; None where only scores were
            given, or embeddings without names.
    """

    table: dict[tuple[str, str], VerificationResult]
    norms: Mapping[str, float] | None = dataclasses.field(default=None, kw_only=True)

    @property
    def headline(self) -> VerificationResult:
        """The plain cosine, with the mirror image where it was embedded."""
        return self.table[self.headline_key]

    @property
    def headline_key(self) -> tuple[str, str]:
        """The headline's place in `table`."""
        return next((flip, "plain") for flip in HEADLINES if (flip, "plain") in self.table)

    accuracy = property(attrgetter("headline.accuracy"))
    std_error = property(attrgetter("headline.std_error"))
    fold_accuracies = property(attrgetter("headline.fold_accuracies"))
    thresholds = property(attrgetter("headline.thresholds"))
    auc = property(attrgetter("headline.auc"))
    eer = property(attrgetter("headline.eer"))
    tar_at_far = property(attrgetter("headline.tar_at_far"))
    genuine_angle = property(attrgetter("headline.genuine_angle"))
    impostor_angle = property(attrgetter("headline.impostor_angle"))


def embed_verification(
    embedder: Any,
    images: np.ndarray,
    left: ArrayLike,
    right: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike,
    *,
    flip: bool = True,
) -> VerificationTable:
    """Embed faces that are in memory, each once, and evaluate pairs of them.

    `embedder` is what `load_embedder` takes or returns, or any callable of that kind; `images` are
    aligned faces, uint8 RGB (n, height, width, 3); `flip` embeds their mirror images as well. The
    other arguments, the result and the errors are those of `verify_embeddings`.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> pairs = sf.data.synthetic.verification_set(8, pairs_per_fold=4, folds=2, size=(28, 24))
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> embedder = sf.load_embedder(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> table = embed_verification(
    ...     embedder, pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds)
    >>> sorted({flip for flip, _ in table.table})
    ['flip', 'none']
    """
    if isinstance(embedder, keras.Model) or not callable(embedder):
        embedder = load_embedder(embedder)
    plain, mirrored = embed_sides(embedder, images, flip)
    names = [f"image {i}" for i in range(len(images))]
    return verify_embeddings(plain, mirrored, left, right, is_same, folds, names=names)


def verification_vectors(embedder: Any, faces: np.ndarray, flip: str) -> NDArray[np.float64]:
    """Embed faces, uint8 RGB (n, height, width, 3), as a verifier compares them.

    `flip` is `"none"`, `"concat"` or `"sum"`: what is done with the mirror images, as in
    `EmbedderMetadata`.

    Returns:
        float64, (n, embedding_dim), twice as long for `"concat"`.

    Raises:
        ValueError: an embedding is zero or not finite.

    Example:

    >>> import tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> embedder = sf.embedder.Embedder.in_memory(network, sf.embedder.EmbedderMetadata())
    >>> faces = np.zeros((2, 8, 8, 3), np.uint8)
    >>> [verification_vectors(embedder, faces, flip).shape for flip in ("sum", "concat")]
    [(2, 192), (2, 384)]
    """
    plain, mirrored = embed_sides(embedder, faces, flip != "none")
    vectors = np.asarray(join_sides(plain, mirrored, flip), np.float64)
    check_embeddings(vectors)
    return vectors


def verification_vectors_of_files(
    model: Embedder | StoredEmbeddings,
    root: Path,
    names: Sequence[str],
    options: EmbeddingOptions,
    flip: Flip = "concat",
) -> NDArray[np.floating]:
    """Embed image files, paths relative to `root`, as a verifier compares them.

    Returns (n, embedding_dim), twice as long for `"concat"`; float64 for `"sum"`, else float32.
    Files that cannot be used are listed in one ValueError.
    """
    plain, mirrored = embed_all(embedding_source(model, root, options), names, options.progress)
    vectors = join_sides(plain, mirrored, flip)
    check_embeddings(vectors, names)
    return vectors


def join_sides(plain: np.ndarray, mirrored: np.ndarray | None, flip: str) -> np.ndarray:
    """Join the embeddings of images, (n, d), and of their mirror images into what is compared.

    Example:

    >>> plain, mirrored = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> join_sides(plain, mirrored, "concat").tolist(), join_sides(plain, mirrored, "sum").tolist()
    ([[1.0, 2.0, 3.0, 4.0]], [[4.0, 6.0]])
    """
    if mirrored is None or flip == "none":
        return plain
    if flip == "concat":
        return np.concatenate([plain, mirrored], axis=1)
    return np.add(plain, mirrored, dtype=np.float64)


def verify_embeddings(
    plain: np.ndarray,
    mirrored: np.ndarray | None,
    left: ArrayLike,
    right: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    combine: Literal["flip", "sum"] = "flip",
    test_fold: int | None = None,
    search: Search = "exact",
    norms: Mapping[str, float] | None = None,
) -> VerificationTable:
    """Evaluate pairs of embeddings.

    Args:
        plain: (n, embedding_dim).
        mirrored: those of the mirror images, or None.
        left: (pairs,) index of each pair's first embedding.
        right: (pairs,) index of its second.
        is_same: (pairs,) bool.
        folds: (pairs,) int.
        names: of the embeddings, for errors.
        labels: (n,) who is in each image, for the angular Fisher score; None leaves it out.
        combine: `"flip"` concatenates image and mirror image, `"sum"` adds them.
        test_fold: None tests every fold; a number tests this fold alone, with the threshold chosen
            on all others.
        search: as for `verification.evaluate`.
        norms: for the table's `norms`; None takes those of the embeddings.

    Returns:
        The table, without its second row where `mirrored` is None.

    Raises:
        ValueError: what `evaluate` refuses, or an embedding that is zero or not finite (named).

    Example:

    >>> vectors = np.random.default_rng(0).normal(size=(8, 16))
    >>> left, right = np.arange(4), np.arange(4, 8)
    >>> table = verify_embeddings(vectors, None, left, right, [1, 0, 1, 0], [1, 1, 2, 2])
    >>> table.accuracy in (0.0, 0.25, 0.5, 0.75, 1.0)
    True
    """
    left, right, fold_of = np.asarray(left), np.asarray(right), np.asarray(folds)
    rows = {"none": np.asarray(plain, np.float64)}
    if mirrored is not None:
        rows[combine] = join_sides(rows["none"], mirrored, "sum" if combine == "sum" else "concat")
    table = {}
    used: Any = slice(None)
    if test_fold is not None:
        used = np.unique([left[fold_of == test_fold], right[fold_of == test_fold]])
    for flip, vectors in rows.items():
        check_embeddings(vectors, names)
        fisher = None if labels is None else _fisher(vectors[used], np.asarray(labels)[used])
        scores = cosines(vectors, left, right)
        centered = mean_subtracted_cosines(vectors, left, right, fold_of)
        table[flip, "plain"] = _evaluate(
            scores, is_same, fold_of, test_fold, search=search, angular_fisher_score=fisher
        )
        table[flip, "mean_subtracted"] = _evaluate(
            centered, is_same, fold_of, test_fold, search=search
        )
    if norms is None and names is not None:
        lengths = lengths_of_sides(plain, mirrored)
        norms = dict(zip(names, lengths.tolist(), strict=True))
    return VerificationTable(table, norms=norms)


def lengths_of_sides(
    plain: NDArray[np.floating], mirrored: NDArray[np.floating] | None
) -> NDArray[np.float64]:
    """Return the lengths (n,) of embeddings, of image and mirror image concatenated."""
    sides = [side for side in (plain, mirrored) if side is not None]
    squares = [np.einsum("ij,ij->i", side, side, dtype=np.float64) for side in sides]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def _evaluate(
    scores: NDArray[np.float64],
    is_same: ArrayLike,
    folds: NDArray[np.int64],
    test_fold: int | None,
    *,
    search: Search,
    angular_fisher_score: float | None = None,
) -> VerificationResult:
    """Evaluate all folds, or one fold with the threshold that the others choose."""
    if test_fold is None:
        return verification.evaluate(
            scores, is_same, folds, search=search, angular_fisher_score=angular_fisher_score
        )
    same, tested = np.asarray(is_same), folds == test_fold
    row = np.atleast_2d(scores)
    row = row[np.searchsorted(np.unique(folds), test_fold) if len(row) > 1 else 0]
    return verification.evaluate_split(
        row[~tested],
        same[~tested],
        row[tested],
        same[tested],
        search=search,
        angular_fisher_score=angular_fisher_score,
    )


def cosines(
    vectors: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cosine of each pair, float64 (pairs,), of vectors (n, d) at `left` and `right`."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    scores = np.empty(len(left))
    for start in range(0, len(left), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores[part] = np.einsum("ij,ij->i", unit[left[part]], unit[right[part]])
    return np.clip(scores, -1.0, 1.0)


def mean_subtracted_cosines(
    vectors: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return each pair's cosine once per fold, about the mean embedding of the other folds.

    As in the SphereFace authors' script: the mean is over both images of each pair outside the
    tested fold (an image in two pairs counts twice), and all pairs are scored about it, so that
    the threshold is chosen on scores of the same kind. `vectors` are (n, d), `left` and `right`
    (pairs,) positions in them; returns float64 (folds, pairs).
    """
    rows = []
    for fold in np.unique(folds):
        others = folds != fold
        used = np.concatenate([left[others], right[others]])
        weights = np.bincount(used, minlength=len(vectors))
        rows.append(cosines(vectors - weights @ vectors / max(len(used), 1), left, right))
    return np.stack(rows)


def _fisher(vectors: NDArray[np.float64], labels: ArrayLike | None) -> float | None:
    """Return the angular Fisher score, None where it is not defined."""
    if labels is None:
        return None
    try:
        return angular_fisher_score(vectors, labels)
    except ValueError:  # one class only, or a mean without an angle
        return None


def check_embeddings(
    vectors: NDArray[np.floating], names: Sequence[str] | None = None, count: bool = True
) -> None:
    """Refuse embeddings (n, d) without a direction: the first zero or not finite one is named.

    Without `names` they are counted; `count` says how many there are in all.
    """
    norms, bad = norms_of(vectors)
    if len(bad):
        first = names[bad[0]] if names is not None else f"embedding {bad[0]}"
        kind = "zero" if norms[bad[0]] == 0 else "not finite"
        many = f", {len(bad)} such embeddings of {len(vectors)}" if count else ""
        raise ValueError(
            "embeddings must be finite and not zero. "
            f"Received: the embedding of {first} is {kind}{many}"
        )
