"""From faces to embeddings to scores: what all verification protocols share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.alignment.face_reader import FaceReader, ProgressCallback
from tf_sphereface.embedder.embedder import Embedder, embed_sides, load_embedder
from tf_sphereface.eval import verification
from tf_sphereface.eval.measures.angles import angular_fisher_score
from tf_sphereface.eval.scoring.sources import ImageSource, embed_all
from tf_sphereface.eval.verification import VerificationResult

HEADLINES = ("flip", "sum", "scores", "none")  # the first that was measured is the headline
_BLOCK = 65_536  # pairs scored at a time


@dataclasses.dataclass(frozen=True, eq=False)
class VerificationTable:
    """The same pairs scored in up to four ways.

    Attributes:
        table: (flip, mean) -> result. `flip` is `"none"`, or `"flip"` for the embeddings of image
            and mirror image, concatenated, `"sum"` for their sum, `"scores"` where only scores were
            given; `mean` is `"plain"`, or `"mean_subtracted"` for the
            mean embedding of the other folds subtracted before the cosine.
    """

    table: dict[tuple[str, str], VerificationResult]

    @property
    def headline(self) -> VerificationResult:
        """The plain cosine, with the mirror image where it was embedded."""
        return self.table[self.headline_key]

    @property
    def headline_key(self) -> tuple[str, str]:
        """The headline's place in `table`."""
        return next((flip, "plain") for flip in HEADLINES if (flip, "plain") in self.table)

    @property
    def accuracy(self) -> float:
        """The headline's accuracy, a fraction."""
        return self.headline.accuracy

    @property
    def std_error(self) -> float:
        """The headline's standard error, a fraction."""
        return self.headline.std_error

    @property
    def fold_accuracies(self) -> NDArray[np.float64]:
        """The headline's accuracy in each fold."""
        return self.headline.fold_accuracies

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """The headline's threshold for each fold, chosen on the others."""
        return self.headline.thresholds

    @property
    def auc(self) -> float:
        """The headline's area under the ROC curve."""
        return self.headline.auc

    @property
    def eer(self) -> float:
        """The headline's equal error rate, a fraction."""
        return self.headline.eer

    @property
    def tar_at_far(self) -> dict[float, float | None]:
        """The headline's true accept rates; None where the pairs are too few."""
        return self.headline.tar_at_far

    @property
    def genuine_angle(self) -> float | None:
        """Mean angle of the headline's genuine pairs, in degrees."""
        return self.headline.genuine_angle

    @property
    def impostor_angle(self) -> float | None:
        """Mean angle of the headline's impostor pairs, in degrees."""
        return self.headline.impostor_angle


def embed_verification(
    embedder: Any,
    images: np.ndarray,
    left: ArrayLike,
    right: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike,
    flip: bool = True,
) -> VerificationTable:
    """Embed faces that are in memory, each once, and evaluate pairs of them.

    Args:
        embedder: what `load_embedder` takes or returns, or any callable of that kind.
        images: uint8 RGB aligned faces, (n, height, width, 3).
        left: (pairs,) index of each pair's first image.
        right: (pairs,) index of its second image.
        is_same: (pairs,) bool.
        folds: (pairs,) int.
        flip: whether mirror images are embedded as well.

    Returns:
        The 2x2 table of flip and mean subtraction, or its first row without `flip`.

    Raises:
        ValueError: what `evaluate` and the embedder refuse, or an embedding that is zero or not
            finite.
    """
    embedder = _open(embedder)
    plain, mirrored = embed_sides(embedder, images, flip)
    names = [f"image {i}" for i in range(len(images))]
    return verify_embeddings(plain, mirrored, left, right, is_same, folds, names=names)


def embed_files(
    embedder: Embedder,
    root: Path,
    names: Sequence[str],
    reader: FaceReader,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Embed image files, each once, a few hundred in memory at a time.

    Args:
        embedder: the embedder.
        root: the folder.
        names: paths relative to it.
        reader: turns a file into a face.
        flip: whether mirror images are embedded as well.
        progress: called with (images done, images in all).
        cache: a folder of embeddings that were computed before (see `EmbeddingCache`), or None.

    Returns:
        The embeddings and those of the mirror images (None without `flip`), float32,
        (len(names), embedding_dim).

    Raises:
        ValueError: some files cannot be used; all of them are listed.
    """
    return embed_all(ImageSource(embedder, root, reader, flip, cache), names, progress)


def verification_vectors(embedder: Any, faces: np.ndarray, flip: str) -> NDArray[np.float64]:
    """Embed faces as a verifier compares them.

    Args:
        embedder: the embedder.
        faces: uint8 RGB, (n, height, width, 3).
        flip: `"none"`, `"concat"` or `"sum"`: what is done with the mirror image, as in
            `EmbedderMetadata`.

    Returns:
        float64, (n, embedding_dim), twice as long for `"concat"`.

    Raises:
        ValueError: an embedding is zero or not finite.
    """
    plain, mirrored = embed_sides(embedder, faces, flip != "none")
    vectors = np.asarray(plain, np.float64)
    if mirrored is not None:
        joined = np.concatenate([vectors, mirrored], axis=1)
        vectors = joined if flip == "concat" else vectors + mirrored
    check_embeddings(vectors, None)
    return vectors


def verify_embeddings(
    plain: np.ndarray,
    mirrored: np.ndarray | None,
    left: ArrayLike,
    right: ArrayLike,
    is_same: ArrayLike,
    folds: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    labels: ArrayLike | None = None,
    combine: str = "flip",
    test_fold: int | None = None,
    search: str = "exact",
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

    Returns:
        The table, without its second row where `mirrored` is None.

    Raises:
        ValueError: what `evaluate` refuses, or an embedding that is zero or not finite (named).
    """
    left, right, fold_of = np.asarray(left), np.asarray(right), np.asarray(folds)
    rows = {"none": np.asarray(plain, np.float64)}
    if mirrored is not None:
        other = np.asarray(mirrored, np.float64)
        joined = np.concatenate([rows["none"], other], axis=1)
        rows[combine] = joined if combine == "flip" else rows["none"] + other
    table = {}
    for flip, vectors in rows.items():
        check_embeddings(vectors, names)
        fisher = _fisher(vectors, labels)
        scores = cosines(vectors, left, right)
        centred = mean_subtracted_cosines(vectors, left, right, fold_of)
        table[flip, "plain"] = judge(scores, is_same, fold_of, test_fold, fisher, search)
        table[flip, "mean_subtracted"] = judge(centred, is_same, fold_of, test_fold, search=search)
    return VerificationTable(table)


def judge(
    scores: NDArray[np.float64],
    is_same: ArrayLike,
    folds: NDArray[np.int64],
    test_fold: int | None = None,
    angular_fisher_score: float | None = None,
    search: str = "exact",
) -> VerificationResult:
    """Evaluate all folds, or one fold with the threshold that the others choose.

    Args:
        scores: (pairs,) or (number of folds, pairs), as for `verification.evaluate`.
        is_same: (pairs,) bool.
        folds: (pairs,) int.
        test_fold: as for `verify_embeddings`.
        angular_fisher_score: kept in the result.
        search: as for `verification.evaluate`.

    Raises:
        ValueError: what `verification.evaluate` refuses.
    """
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
    """Return the cosine of each pair, float64 (pairs,).

    Args:
        vectors: (n, d), none of them zero.
        left: (pairs,) index of each pair's first vector.
        right: (pairs,) index of its second.
    """
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
    """Return each pair's cosine once a fold, about the mean embedding of the other folds.

    As in the SphereFace authors' script: the mean is over both images of each pair outside the
    tested fold (an image in two pairs counts twice), and all pairs are scored about it, so that
    the threshold is chosen on scores of the same kind.

    Args:
        vectors: (n, d).
        left: (pairs,) index of each pair's first vector.
        right: (pairs,) index of its second.
        folds: (pairs,) int.

    Returns:
        float64, (number of folds, pairs), as `verification.evaluate` takes it.
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


def _open(embedder: Any) -> Any:
    """Open a path or a model; a plain function that embeds is taken as it is."""
    import keras

    if callable(embedder) and not isinstance(embedder, keras.Model):
        return embedder
    return load_embedder(embedder)


def check_embeddings(
    vectors: NDArray[np.floating], names: Sequence[str] | None, count: bool = True
) -> None:
    """Refuse embeddings that have no direction: the first of them is named.

    Args:
        vectors: (n, d).
        names: of the embeddings, for the error.
        count: whether to say how many there are; not of a part of all embeddings.

    Raises:
        ValueError: an embedding is zero or not finite.
    """
    norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        first = names[bad[0]] if names is not None else f"embedding {bad[0]}"
        kind = "zero" if norms[bad[0]] == 0 else "not finite"
        many = f", {len(bad)} such embeddings of {len(vectors)}" if count else ""
        raise ValueError(
            "embeddings must be finite and not zero. "
            f"Received: the embedding of {first} is {kind}{many}"
        )
