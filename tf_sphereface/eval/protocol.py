"""The outcome of a verification protocol, and the evaluation of a list of pairs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.eval.measures.checks import check_protocol
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings, StoredScores
from tf_sphereface.eval.scoring.score_pairs import VerificationTable, verify_embeddings
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, embed_all, embedding_source


@dataclasses.dataclass(frozen=True, eq=False)
class ProtocolResult(VerificationTable):
    """A verification protocol's outcome.

    Attributes:
        name: `"lfw"` or what the list of pairs is called, the same with `"-view1"`, `"folder"`,
            `"ytf"`, `"bin"` or `"scores"`.
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


_FLIPS = {"none": "none", "flip": "concat", "sum": "sum"}  # a row of the table -> metadata's flip


def own_threshold(result: ProtocolResult) -> float | None:
    """Return the model's own threshold, chosen elsewhere, if it is for the headline's vectors."""
    metadata = result.embedder.metadata
    flip, mean = result.headline_key
    if metadata is None or mean != "plain" or _FLIPS.get(flip) != metadata.flip:
        return None
    return metadata.threshold


def evaluate_pairs(
    name: str,
    model: Embedder | StoredEmbeddings,
    root: Path | None,
    pairs: Pairs,
    options: EmbeddingOptions,
    origin: str,
    *,
    search: Search = "exact",
) -> ProtocolResult:
    """Embed the images of `pairs`, each once, and evaluate.

    `model` is what `open_embedder` returned, `root` the folder of the images (None with stored
    embeddings), `origin` says in words where the folds are from.
    """
    check_protocol(pairs.is_same, pairs.folds, search)
    scored, images = verify_images(model, root, pairs, options, search=search)
    items = f"{images:,} images in the {pairs.num_folds} folds {origin}"
    return ProtocolResult(
        table=scored.table,
        norms=scored.norms,
        name=name,
        protocol=describe(pairs, items, scored.headline_key[0], over_folds(pairs, search))
        + alignment_note(options),
        embedder=model,
        pairs=pairs,
        num_items=images,
    )


def verify_images(
    model: Embedder | StoredEmbeddings,
    root: Path | None,
    pairs: Pairs,
    options: EmbeddingOptions,
    *,
    test_fold: int | None = None,
    search: Search = "exact",
) -> tuple[VerificationTable, int]:
    """Return the scored pairs, whose images are embedded once each, and the number of images."""
    names = pairs.images()[0]
    plain, mirrored = embed_all(embedding_source(model, root, options), names, options.progress)
    scored = verify_items(pairs, plain, mirrored, test_fold=test_fold, search=search)
    return scored, len(names)


def verify_items(
    pairs: Pairs,
    plain: NDArray[np.floating],
    mirrored: NDArray[np.floating] | None,
    *,
    test_fold: int | None = None,
    search: Search = "exact",
    norms: Mapping[str, float] | None = None,
) -> VerificationTable:
    """Score pairs of images or videos whose embeddings have the order of `pairs.images()`.

    `norms` are as for `verify_embeddings`.
    """
    names, left, right = pairs.images()
    return verify_embeddings(
        plain,
        mirrored,
        left,
        right,
        pairs.is_same,
        pairs.folds,
        names=names,
        labels=_people_of(names, left, right, pairs.is_same),
        test_fold=test_fold,
        search=search,
        norms=norms,
    )


def _people_of(
    names: Sequence[str],
    left: NDArray[np.integer],
    right: NDArray[np.integer],
    is_same: NDArray[np.bool_],
) -> list[str] | None:
    """Return the first folder of each image, if the pairs take it for the person."""
    people = [name.split("/")[0] for name in names]
    alike = np.array([people[a] == people[b] for a, b in zip(left, right, strict=True)])
    return people if np.array_equal(alike, is_same) else None


def describe(pairs: Pairs, items: str, flip: str, thresholds: str) -> str:
    """Return how a headline was measured, as one sentence.

    `items` says how many images or videos there are, `thresholds` how they were chosen; `flip` is
    `"none"`, `"flip"` or `"sum"`, as in `VerificationTable.table`.
    """
    vectors = {
        "none": "the image alone",
        "flip": "image and mirror image, concatenated",
        "sum": "image and mirror image, summed",
    }[flip]
    return (
        f"{count_in_words(pairs)} of {items}; cosine of the embeddings of {vectors}; {thresholds}"
    )


def count_in_words(pairs: Pairs) -> str:
    """Return how many pairs of which class there are."""
    genuine = int(pairs.is_same.sum())
    return f"{len(pairs):,} pairs ({genuine:,} genuine, {len(pairs) - genuine:,} impostor)"


def over_folds(pairs: Pairs, search: Search = "exact") -> str:
    """Return how thresholds were chosen, and what the headline is, as the end of a sentence."""
    folds = pairs.num_folds
    others = "the other" if folds == 2 else f"the {folds - 1} others"
    return (
        f"each fold's threshold chosen on {others}{on_grid(search)}; mean accuracy and its "
        "standard error over the folds."
    )


def on_grid(search: Search) -> str:
    """Return the words for the authors' grid, with a space before them; none for another search."""
    return " from the authors' grid of 1e-4" if search == "grid" else ""


def alignment_note(options: EmbeddingOptions) -> str:
    """Return whether images were aligned here as a sentence, with a space before it."""
    return "" if options.landmarks is None else " Aligned by the given landmarks."


def existing_folder(argument: str, path: str | os.PathLike[str]) -> Path:
    """Return a folder's path, or raise a FileNotFoundError that names the argument."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{argument} must be a folder that exists. Received: {str(folder)!r}"
        )
    return folder
