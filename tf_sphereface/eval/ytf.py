"""YouTube Faces: verification of pairs of videos, one pooled embedding per video."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import Landmarks, Problems
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.eval.folder import image_names
from tf_sphereface.eval.frame_pairs import stream_videos, verify_frame_pairs
from tf_sphereface.eval.measures.angles import ONE_LENGTH
from tf_sphereface.eval.measures.checks import check_protocol
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.pairs import Pairs, read_lines, split_fields
from tf_sphereface.eval.protocol import (
    ProtocolResult,
    describe,
    existing_folder,
    over_folds,
    verify_items,
)
from tf_sphereface.eval.scoring.score_pairs import lengths_of_sides
from tf_sphereface.eval.scoring.sources import (
    EmbeddingOptions,
    EmbeddingSource,
    embedding_source,
    open_embedder,
)
from tf_sphereface.utils.checks import check_choice, check_integer
from tf_sphereface.utils.messages import ProgressCallback

__all__ = [
    "evaluate",
    "read_splits",
]

Pooling = Literal["mean", "mean_normalized", "best_frame", "frame_pairs"]
POOLINGS: dict[Pooling, str] = {
    "mean": "A video's embedding is the mean over its frames.",
    "mean_normalized": "A video's embedding is the mean over its frames, each scaled to unit "
    "length.",
    "best_frame": "A video's embedding is that of its best frame, the one with the longest "
    "embedding.",
    "frame_pairs": "Instead, the mean cosine of random frame pairs.",
}


def read_splits(path: str | os.PathLike[str]) -> Pairs:
    r"""Read the YouTube Faces protocol, `splits.txt`: pairs of videos `"person/video"`.

    Each line is `fold, number, person/video, person/video, 1 if the person is the same`, with
    commas, semicolons or tabs between; a first line may hold titles.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of that form, contradicts its own names, or repeats a pair; the
            file and the line are named.

    Example:

    >>> _ = Path("splits.txt").write_text("1, 1, Ann/0, Ann/1, 1\n1, 2, Ann/0, Bob/2, 0\n")
    >>> pairs = read_splits("splits.txt")
    >>> pairs.right, pairs.is_same.tolist()
    (['Ann/1', 'Bob/2'], [True, False])
    """
    path = Path(path)
    left: list[str] = []
    right: list[str] = []
    is_same: list[bool] = []
    folds: list[int] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_lines(path, "in the form of splits.txt"), start=1):
        if not line.strip() or (not left and _is_header(line)):
            continue
        fold, first, second, same = _split(path, number, line)
        key = (min(first, second), max(first, second))
        if key in seen:
            raise ValueError(
                f"{path}, line {number}: the pair of line {seen[key]} again. Received: {line!r}"
            )
        seen[key] = number
        folds.append(fold)
        left.append(first)
        right.append(second)
        is_same.append(same)
    if not left:
        raise ValueError(f"{path} must hold pairs of videos. Received: no line at all")
    return Pairs(left, right, np.array(is_same, bool), np.array(folds, np.int64))


def evaluate(
    embedder: Any,
    frames: str | os.PathLike[str] | None,
    splits: str | os.PathLike[str] | Pairs,
    pooling: Pooling = "mean",
    landmarks: Landmarks | None = None,
    max_frames: int | None = None,
    *,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    frame_pairs: int = 100,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    search: Search = "exact",
    strict: bool = False,
) -> ProtocolResult:
    r"""Run the YouTube Faces protocol, video by video.

    At most 256 frames are in memory at a time, whatever the length of the videos.

    Args:
        embedder: what `load_embedder` takes. Or a `.npz` file of embeddings (`StoredEmbeddings`),
            named `person/video/frame.jpg`, or `person/video` where they are pooled already.
        frames: the folder that holds `person/video/frame.jpg`; None with stored embeddings.
        splits: `splits.txt`, or what `read_splits` returned.
        pooling: `"mean"` of the frames' embeddings, or `"mean_normalized"`: each embedding (of
            the frame and of its mirror image) is scaled to unit length first; `"best_frame"`: the
            frame whose embedding is longest, which tends to be the clearest one where the network
            does not scale its output; `"frame_pairs"`: no pooling, a score is the mean cosine of
            random pairs of frames.
        landmarks: a landmark file with `person/video/frame.jpg` names, or such a mapping; None
            when the frames are aligned.
        max_frames: take at most so many frames of a video, evenly spaced; None takes all.
        flip: whether mirror images are embedded as well.
        progress: called with (videos done, videos in all).
        frame_pairs: how many pairs of frames `"frame_pairs"` draws for a pair of videos.
        seed: of that draw.
        cache: as for `lfw.evaluate`.
        search: as for `lfw.evaluate`.
        strict: raise where images are passed over, rather than warn.

    Returns:
        The 2x2 table of flip and mean subtraction; the headline says the pooling.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: videos are missing or empty, frames cannot be used (all are listed), or
            `splits` is malformed.

    Example:

    >>> from tf_sphereface.eval.scoring import write_embeddings
    >>> names, vectors = ["A/0", "A/1", "B/0", "B/1"], [[1, 0], [2, 0], [0, 1], [0, 2]]
    >>> write_embeddings("videos.npz", names, vectors)
    >>> rows = ["1, 1, A/0, A/1, 1", "1, 2, A/0, B/0, 0", "2, 3, B/0, B/1, 1", "2, 4, A/1, B/1, 0"]
    >>> _ = Path("splits.txt").write_text("\n".join(rows))
    >>> evaluate("videos.npz", None, "splits.txt").accuracy
    1.0
    """
    check_choice("pooling", pooling, tuple(POOLINGS))
    if max_frames is not None:
        check_integer("max_frames", max_frames, 1)
    check_integer("frame_pairs", frame_pairs, 1)
    root = None if frames is None else existing_folder("frames", frames)
    pairs = splits if isinstance(splits, Pairs) else read_splits(splits)
    check_protocol(pairs.is_same, pairs.folds, search)
    options = EmbeddingOptions(flip, landmarks, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    source = embedding_source(model, root, options, "frames")
    videos = pairs.images()[0]
    files = _frames_of(videos, model, root, max_frames, strict)
    count = sum(len(names) for names in files.values())
    if pooling == "frame_pairs":
        scored, count = verify_frame_pairs(
            source, pairs, files, count=frame_pairs, seed=seed, progress=progress, search=search
        )
    else:
        plain, mirrored, norms = pool_videos(source, files, pooling, progress)
        scored = verify_items(pairs, plain, mirrored, search=search, norms=norms)
    sentences = [
        describe(
            pairs,
            f"{len(videos):,} videos ({count:,} frames) in the {pairs.num_folds} folds of "
            "splits.txt",
            scored.headline_key[0],
            over_folds(pairs, search),
        ),
        POOLINGS[pooling],
    ]
    if pooling == "frame_pairs":
        sentences.append(f"{frame_pairs} frame pairs per pair of videos, seed {seed}.")
    if max_frames is not None:
        sentences.append(f"At most {max_frames} frames of a video, evenly spaced.")
    return ProtocolResult(
        table=scored.table,
        norms=scored.norms,
        name="ytf",
        protocol=" ".join(sentences),
        embedder=model,
        pairs=pairs,
        num_items=len(videos),
    )


def _frames_of(
    videos: list[str], model: Any, root: Path | None, max_frames: int | None, strict: bool
) -> dict[str, list[str]]:
    """Return video -> names of the frames to take, from the folder or the stored embeddings."""
    frames = _stored_frames(model, videos) if root is None else _list_frames(root, videos, strict)
    return {video: _sample(names, max_frames) for video, names in frames.items()}


def _list_frames(root: Path, videos: list[str], strict: bool) -> dict[str, list[str]]:
    """Return video -> relative paths of its frames in time order; every video must have some."""
    problems, passed_over = Problems("videos"), PassedOver()
    files = {}
    for video in videos:
        folder = root / video
        images = image_names(folder, passed_over) if folder.is_dir() else []
        if images:
            files[video] = [f"{video}/{name}" for name in sorted(images, key=_natural)]
        else:
            problems.add(video, "missing" if not folder.is_dir() else "no frames in it")
    problems.raise_if_any(len(videos), root)
    passed_over.settle(root, strict)
    return files


def _stored_frames(model: Any, videos: list[str]) -> dict[str, list[str]]:
    """Return video -> names of its stored embeddings: its frames', or its own."""
    files: dict[str, list[str]] = {video: [] for video in videos}
    for name in sorted(model.names, key=_natural):
        video = "/".join(name.split("/")[:2])
        if video in files:
            files[video].append(name)
    problems = Problems("videos")
    for video, names in files.items():
        if not names:
            problems.add(video, "not in the file of embeddings")
    problems.raise_if_any(len(videos), model.path or "the given embeddings")
    return files


def _sample(names: list[str], most: int | None) -> list[str]:
    """Take at most so many frames, from the middle of stretches of equal length."""
    if most is None or len(names) <= most:
        return names
    return [names[int(i)] for i in (np.arange(most) + 0.5) * len(names) / most]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort 0.10.jpg after 0.9.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _is_header(line: str) -> bool:
    """Tell a line of titles, such as `split number, pair number, first name, ...`."""
    fields = split_fields(line)
    return len(fields) >= 5 and not fields[0].isdecimal() and "/" not in line


def _split(path: Path, number: int, line: str) -> tuple[int, str, str, bool]:
    fields = split_fields(line)
    well_formed = (
        len(fields) == 5
        and fields[0].isdecimal()
        and fields[1].isdecimal()
        and fields[4].lower() in ("0", "1", "false", "true")
        and all(re.fullmatch(r"[^/\\]+/[^/\\]+", video) for video in fields[2:4])
        and not any(part in (".", "..") for video in fields[2:4] for part in video.split("/"))
    )
    if not well_formed:
        raise ValueError(
            f"{path}, line {number}: expected 'fold, number, person/video, person/video, 0 or 1'. "
            f"Received: {line[:120]!r}"
        )
    first, second, same = fields[2], fields[3], fields[4].lower() in ("1", "true")
    if first == second or same != (first.split("/")[0] == second.split("/")[0]):
        raise ValueError(
            f"{path}, line {number}: the names and the label contradict each other. "
            f"Received: {line!r}"
        )
    return int(fields[0]), first, second, same


def pool_videos(
    source: EmbeddingSource,
    files: Mapping[str, Sequence[str]],
    pooling: Pooling,
    progress: ProgressCallback | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, dict[str, float]]:
    """Return float64 (videos, embedding_dim), that of the mirror images or None, and lengths.

    A video's length is the mean over its frames' embeddings (of image and mirror image
    concatenated), before any scaling. At most 256 frames are in memory at a time. `"best_frame"` is
    refused where all embeddings have one length.
    """
    pooled = np.zeros((2 if source.flip else 1, len(files), source.embedding_dim))
    lengths = np.zeros(len(files))
    longest = np.full(len(files), -1.0)
    shortest = np.inf
    for i, *sides in stream_videos(source, files, progress):
        vectors = [np.asarray(side, np.float64) for side in sides if side is not None]
        lengths[i] += lengths_of_sides(vectors[0], vectors[1] if source.flip else None).sum()
        if pooling == "best_frame":
            norms = np.linalg.norm(vectors[0], axis=1)
            best = int(np.argmax(norms))
            shortest = min(shortest, float(np.min(norms)))
            if norms[best] > longest[i]:
                longest[i] = norms[best]
                pooled[:, i] = [side[best] for side in vectors]
        else:
            pooled[:, i] += [_sum(side, pooling) for side in vectors]
    if pooling == "best_frame" and np.max(longest) - shortest <= ONE_LENGTH * np.max(longest):
        raise ValueError(
            "pooling best_frame takes the frame with the longest embedding. Received: "
            "embeddings that are all of one length; the network scales them itself"
        )
    counts = np.array([len(names) for names in files.values()])
    if pooling != "best_frame":
        pooled /= counts[:, None]
    norms = dict(zip(files, (lengths / counts).tolist(), strict=True))
    return pooled[0], pooled[1] if source.flip else None, norms


def _sum(vectors: NDArray[np.float64], pooling: Pooling) -> NDArray[np.float64]:
    if pooling == "mean_normalized":
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    return np.asarray(vectors.sum(axis=0))
