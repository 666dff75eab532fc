"""The outcome of a verification protocol, and the evaluation of a list of pairs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from tf_sphereface.alignment.face_reader import Landmarks, ProgressCallback
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.eval.measures.thresholds import check_pairs
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings, StoredScores
from tf_sphereface.eval.scoring.score_pairs import VerificationTable, verify_embeddings
from tf_sphereface.eval.scoring.sources import embed_all, open_source


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
