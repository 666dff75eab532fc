"""Comparison of two videos by random pairs of their frames: the mean of the pairs' cosines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval import verification
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.scoring.score_pairs import (
    VerificationTable,
    check_embeddings,
    join_sides,
    lengths_of_sides,
)
from tf_sphereface.eval.scoring.sources import EmbeddingSource
from tf_sphereface.utils.messages import ProgressCallback

_BLOCK = 8192  # frames in memory at a time, as float64

Files = Mapping[str, Sequence[str]]


def draw_frame_pairs(
    pairs: Pairs, lengths: Mapping[str, int], count: int, seed: int
) -> NDArray[np.int64]:
    """Draw `count` frames of both videos of each pair, with replacement: int64 (pairs, count, 2).

    They are positions in the videos, whose `lengths` are given by name. Each pair of videos has its
    own random stream, by the seed and its place in the list.
    """
    drawn = np.empty((len(pairs), count, 2), np.int64)
    for i, names in enumerate(zip(pairs.left, pairs.right, strict=True)):
        rng = np.random.default_rng([seed, i])
        for side, name in enumerate(names):
            drawn[i, :, side] = rng.integers(0, lengths[name], count)
    return drawn


def verify_frame_pairs(
    source: EmbeddingSource,
    pairs: Pairs,
    files: Files,
    *,
    count: int,
    seed: int,
    progress: ProgressCallback | None = None,
    search: Search = "exact",
) -> tuple[VerificationTable, int]:
    """Embed the frames that are drawn, each once, into a file, and compare them there.

    `files` are the names of each video's frames, `count` the frame pairs of a pair of videos.
    Returns the table, without mirror images where the source has none, and how many frames were
    embedded. Frames that cannot be used are listed in one ValueError.
    """
    lengths = {video: len(names) for video, names in files.items()}
    drawn = draw_frame_pairs(pairs, lengths, count, seed)
    sides = ((pairs.left, 0), (pairs.right, 1))
    wanted: dict[str, list[NDArray[np.int64]]] = {video: [] for video in files}
    for names, side in sides:
        for i, video in enumerate(names):
            wanted[video].append(drawn[i, :, side])
    needed = {video: np.unique(np.concatenate(draws)) for video, draws in wanted.items()}
    ends = np.cumsum([len(at) for at in needed.values()])
    start = {
        video: int(end) - len(at) for (video, at), end in zip(needed.items(), ends, strict=True)
    }
    rows = np.empty_like(drawn)
    for names, side in sides:
        for i, video in enumerate(names):
            rows[i, :, side] = start[video] + np.searchsorted(needed[video], drawn[i, :, side])
    chosen = {video: [files[video][k] for k in at] for video, at in needed.items()}
    with tempfile.TemporaryDirectory(prefix="tf_sphereface-frames-") as folder:
        vectors = _embed(source, chosen, int(ends[-1]), Path(folder) / "frames.f32", progress)
        dim = source.embedding_dim
        parts = {"none": vectors[:, :dim], **({"flip": vectors} if source.flip else {})}
        table = {}
        for flip, part in parts.items():
            plain, centered = _scores(part, rows, pairs.folds)
            for mean, scores in (("plain", plain), ("mean_subtracted", centered)):
                table[flip, mean] = verification.evaluate(
                    scores, pairs.is_same, pairs.folds, search=search
                )
        norms = {
            video: float(np.mean(lengths_of_sides(vectors[start[video] : end], None)))
            for video, end in zip(needed, ends.tolist(), strict=True)
        }
        del vectors, parts, part  # before the file that they map
    return VerificationTable(table, norms=norms), int(ends[-1])


def _embed(
    source: EmbeddingSource,
    chosen: Files,
    total: int,
    path: Path,
    progress: ProgressCallback | None,
) -> NDArray[np.float32]:
    """Write the frames' embeddings to a file, video by video, and map it."""
    width = source.embedding_dim * (2 if source.flip else 1)
    vectors = np.memmap(path, np.float32, "w+", shape=(total, width))
    at = 0
    for _, plain, mirrored in stream_videos(source, chosen, progress):
        vectors[at : at + len(plain)] = join_sides(plain, mirrored, "concat")
        at += len(plain)
    return vectors


def stream_videos(
    source: EmbeddingSource, files: Files, progress: ProgressCallback | None
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32] | None]]:
    """Embed the frames of videos, at most 256 in memory at a time, and close the source at the end.

    Yields the number of the video, and embeddings of some of its frames, (k, embedding_dim), and of
    their mirror images or None. An embedding that is zero or not finite is an error that names its
    frame: in a mean it would go unseen.
    """
    try:
        for video, names in enumerate(files.values()):
            at = 0
            for plain, mirrored in source.stream(names):
                part = names[at : at + len(plain)]
                for side in (plain, mirrored):
                    if side is not None:
                        check_embeddings(side, part, count=False)
                at += len(plain)
                yield video, plain, mirrored
            if progress is not None:
                progress(video + 1, len(files))
    finally:
        source.close()
    source.check(sum(map(len, files.values())))


def _scores(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each pair's mean cosine, (pairs,), and about each fold's mean, (folds, pairs).

    With m the mean over the drawn frames of the other folds, the cosine about it follows from
    products that are taken once: `(x - m)(y - m) = xy - xm - ym + mm`.
    """
    ids = np.unique(folds)
    sums = np.zeros((len(ids), vectors.shape[1]))
    products = np.empty(rows.shape[:2])
    step = max(1, _BLOCK // rows.shape[1])
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        x, y = (vectors[rows[part, :, side]].astype(np.float64) for side in (0, 1))
        products[part] = np.einsum("pnd,pnd->pn", x, y)
        np.add.at(sums, np.searchsorted(ids, folds[part]), x.sum(axis=1) + y.sum(axis=1))
    used = 2 * rows.shape[1] * np.array([np.sum(folds == fold) for fold in ids])
    others = sums.sum(axis=0) - sums
    means = others / (used.sum() - used)[:, None]
    norms = np.empty(len(vectors))  # squared
    along = np.empty((len(vectors), len(ids)))
    for begin in range(0, len(vectors), _BLOCK):
        block = vectors[begin : begin + _BLOCK].astype(np.float64)
        norms[begin : begin + _BLOCK] = np.einsum("nd,nd->n", block, block)
        along[begin : begin + _BLOCK] = block @ means.T
    left, right = rows[..., 0], rows[..., 1]
    plain = _mean_cosine(products, norms[left], norms[right])
    centered = np.empty((len(ids), len(rows)))
    for k in range(len(ids)):
        own = means[k] @ means[k]
        moved = norms - 2 * along[:, k] + own
        cross = products - along[left, k] - along[right, k] + own
        centered[k] = _mean_cosine(cross, moved[left], moved[right])
    return plain, centered


def _mean_cosine(
    products: NDArray[np.float64], left: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean over frame pairs of product over root of squared norms."""
    tiny = np.finfo(np.float64).tiny
    lengths = np.sqrt(np.maximum(left, tiny)) * np.sqrt(np.maximum(right, tiny))
    return np.asarray(np.clip(products / lengths, -1.0, 1.0).mean(axis=1))
