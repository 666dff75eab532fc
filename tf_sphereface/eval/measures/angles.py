"""Distributions of angles: between pairs, and around the centers of classes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.checks import check_rows

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
ONE_LENGTH = 1e-3  # relative spread of norms below which a network must scale its output


@dataclasses.dataclass(frozen=True, eq=False)
class AngleDistribution:
    """The angles of some pairs, in degrees.

    `std` is with n - 1, 0 for a single pair; `quantiles` maps a share to the angle that this share
    of the pairs does not exceed; `counts`, int64 (180,), are pairs per degree, 180 in the last bin.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    quantiles: dict[float, float]
    counts: NDArray[np.int64]


def angle_distribution(cosines: ArrayLike) -> AngleDistribution:
    """Summarize the angles of cosines (n,), n at least 1, within [-1, 1] up to 1e-6."""
    values = np.asarray(cosines, np.float64).ravel()
    if values.size == 0 or not is_cosine(values):
        raise ValueError(
            "cosines must be numbers from -1 to 1, one at least. Received: "
            + (f"a range of {values.min()} to {values.max()}" if values.size else "none")
        )
    angles = degrees(values)
    bins = np.minimum(angles.astype(np.int64), 179)
    return AngleDistribution(
        mean=float(np.mean(angles)),
        std=float(np.std(angles, ddof=1)) if len(angles) > 1 else 0.0,
        minimum=float(np.min(angles)),
        maximum=float(np.max(angles)),
        quantiles=dict(zip(QUANTILES, np.quantile(angles, QUANTILES).tolist(), strict=True)),
        counts=np.bincount(bins, minlength=180),
    )


def degrees(cosines: ArrayLike) -> NDArray[np.float64]:
    """Return the angles of cosines in degrees; rounding errors past -1 and 1 are cut off."""
    return np.degrees(np.arccos(np.clip(np.asarray(cosines, np.float64), -1.0, 1.0)))


def norms_of(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the norms of vectors, (n, 1), and which vectors are zero or not finite."""
    norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=1, keepdims=True)
    return norms, np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))


def is_cosine(values: NDArray[np.float64]) -> bool:
    """Tell whether scores can be cosines: all of them within [-1, 1], up to 1e-6."""
    return bool(np.max(np.abs(values), initial=0.0) <= 1 + 1e-6)


def angular_fisher_score(embeddings: ArrayLike, labels: ArrayLike) -> float:
    """Return the angular Fisher score: spread within the classes over spread between them.

    `S_w / S_b` with `S_w = sum_i sum_{x in class i} (1 - cos(x, mean_i))` and
    `S_b = sum_i n_i (1 - cos(mean_i, mean))`, means of the embeddings as they are (not scaled to
    unit length). Lower is better, 0 is one point per class, infinity means that all point one way.
    It depends on which images there are, so compare it on the same images only.

    Args:
        embeddings: (n, d), none zero.
        labels: (n,) who each embedding shows; integers or strings, two classes at least.

    Source: Liu et al., "SphereFace", CVPR 2017, the definition of the angular Fisher score.
    """
    vectors = np.asarray(embeddings, np.float64)
    names = check_rows(vectors, labels, "embeddings")
    classes, index = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels must name two classes at least. Received: {len(classes)}")
    counts = np.bincount(index)
    order = np.argsort(index, kind="stable")
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(vectors[order], starts, axis=0) / counts[:, None]
    units = _unit(vectors, "an embedding")
    centers = _unit(means, "the mean of a class")
    overall = _unit(vectors.mean(axis=0, keepdims=True), "the mean of all embeddings")
    within = float(np.sum(np.maximum(1 - np.einsum("ij,ij->i", units, centers[index]), 0.0)))
    between = float(np.sum(counts * np.maximum(1 - centers @ overall[0], 0.0)))
    # One point per class leaves nothing but rounding: 1e-15 per embedding.
    within = within if within > 1e-14 * len(vectors) else 0.0
    return within / between if between > 1e-14 * len(vectors) else float("inf")


def _unit(vectors: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    norms, bad = norms_of(vectors)
    if len(bad):
        raise ValueError(
            f"embeddings must give means with an angle. Received: {what} is zero or nan"
        )
    return np.asarray(vectors / norms)
