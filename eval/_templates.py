"""Templates: one embedding of several images and videos, as IJB makes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval._rates import check_rows


def pool_templates(
    embeddings: NDArray[np.floating], templates: ArrayLike, media: ArrayLike | None = None
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Average embeddings into templates, as IJB does: first within each video, then over the media.

    Args:
        embeddings: (n, d).
        templates: (n,) which template each belongs to.
        media: (n,) which photograph or video each is from, so that a long video counts no more than
            a photograph; None takes every image for itself.

    Returns:
        The distinct templates, ascending, and float64 (templates, d): their sums, scaled to unit
        length.

    Raises:
        ValueError: shapes do not fit, or a template's sum is zero or not finite.

    Example:

    >>> ids, pooled = pool_templates(np.array([[1.0, 0], [0, 1], [0, 1]]), [7, 7, 7], [0, 1, 1])
    >>> ids.tolist(), pooled.round(3).tolist()
    ([7], [[0.707, 0.707]])

    Source: Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", CVPRW 2017.
    """
    owner = check_rows(embeddings, templates, "embeddings")
    ids, template = np.unique(owner, return_inverse=True)
    if media is None:
        medium = np.arange(len(owner))
    else:
        medium = np.unique(check_rows(embeddings, media, "embeddings"), return_inverse=True)[1]
    groups, group = np.unique(np.stack([template, medium], axis=1), axis=0, return_inverse=True)
    means = _sums(embeddings, group.ravel(), len(groups)) / np.bincount(group.ravel())[:, None]
    pooled = _sums(means, groups[:, 0], len(ids))
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)).ravel())
    if len(bad):
        raise ValueError(
            "embeddings must give each template a direction. Received: the sum of template "
            f"{ids[bad[0]]} is zero or not finite"
        )
    return ids, np.asarray(pooled / norms)


def _sums(
    vectors: NDArray[np.floating], group: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Add up the vectors of each group."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=count)
    rows = np.asarray(vectors, np.float64)[order]
    return np.asarray(np.add.reduceat(rows, np.cumsum(sizes) - sizes, axis=0))
