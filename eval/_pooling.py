"""One embedding a video, from its frames as they stream by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval._sources import Source
from tf_sphereface.eval.embeddings import check_embeddings
from tf_sphereface.eval.faces import ProgressCallback

ONE_LENGTH = 1e-3  # relative spread of norms below which a network must scale its output


def pool_videos(
    source: Source,
    files: Mapping[str, Sequence[str]],
    pooling: str,
    progress: ProgressCallback | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return one embedding a video; one piece of one video is in memory at a time.

    Args:
        source: where the frames' embeddings come from.
        files: video -> names of its frames.
        pooling: `"mean"`, `"mean_normalized"` or `"best_frame"`.
        progress: called with (videos done, videos in all).

    Returns:
        float64 (videos, embedding_dim), and that of the mirror images or None.

    Raises:
        ValueError: frames cannot be used (all are listed); an embedding is zero or not finite (its
            frame is named); or the best frame is asked for and all
            embeddings have one length.
    """
    pooled = np.zeros((2 if source.flip else 1, len(files), source.embedding_dim))
    longest = np.full(len(files), -1.0)
    shortest = np.inf
    try:
        for i, names in enumerate(files.values()):
            at = 0
            for piece in source.stream(names):
                sides = [np.asarray(side, np.float64) for side in piece if side is not None]
                for side in sides:  # in a mean a frame without a direction would go unseen
                    check_embeddings(side, names[at : at + len(side)], count=False)
                at += len(sides[0])
                norms = np.linalg.norm(sides[0], axis=1)
                if pooling == "best_frame":
                    best = int(np.argmax(norms))
                    shortest = min(shortest, float(np.min(norms)))
                    if norms[best] > longest[i]:
                        longest[i] = norms[best]
                        pooled[:, i] = [side[best] for side in sides]
                else:
                    pooled[:, i] += [_sum(side, pooling) for side in sides]
            if progress is not None:
                progress(i + 1, len(files))
    finally:
        source.close()
    source.check(sum(map(len, files.values())))
    if pooling == "best_frame":
        if np.max(longest) - shortest <= ONE_LENGTH * np.max(longest):
            raise ValueError(
                "pooling best_frame takes the frame with the longest embedding. Received: "
                "embeddings that are all of one length; the network scales them itself"
            )
    else:
        pooled /= np.array([len(names) for names in files.values()])[:, None]
    return pooled[0], pooled[1] if source.flip else None


def _sum(vectors: NDArray[np.float64], pooling: str) -> NDArray[np.float64]:
    if pooling == "mean_normalized":
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    return np.asarray(vectors.sum(axis=0))
