"""Rates of right answers at given false accept rates, and the pooling of templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.identification.score_blocks import TIE, highest
from tf_sphereface.eval.measures.angles import norms_of
from tf_sphereface.eval.measures.checks import check_rows
from tf_sphereface.eval.measures.curve import clopper_pearson, unsupported


@dataclasses.dataclass(frozen=True)
class RatesAtFar:
    """Rates of right answers at given false accept rates; fractions.

    Attributes:
        rates: false accept rate -> rate, None where the impostors are too few to state it.
        intervals: false accept rate -> exact 95 % interval (Clopper-Pearson), None likewise.
        reasons: false accept rate -> why its entry is None.
        thresholds: false accept rate -> the cosine above which a score is accepted, chosen on these
            very impostors (best on test); None likewise. A tie counts against the network.
        num_genuine: how many scores the rates are of.
        num_impostor: how many the false accept rates are of.
    """

    rates: dict[float, float | None]
    intervals: dict[float, tuple[float, float] | None]
    reasons: dict[float, str]
    thresholds: dict[float, float | None]
    num_genuine: int
    num_impostor: int


def rates_at_far(
    genuine: NDArray[np.float64],
    impostors: Callable[[], Iterable[NDArray[np.float64]]],
    total: int,
    fars: Sequence[float],
    what: str = "impostor pairs",
) -> RatesAtFar:
    """State the share of genuine scores above the threshold of each false accept rate.

    `impostors` gives all `total` impostor scores in blocks, as `highest` takes them; `what` is what
    they are called in a reason.
    """
    reasons = {
        far: reason.replace("impostor pairs", what)
        for far in fars
        if (reason := unsupported(far, total))
    }
    stated = [far for far in fars if far not in reasons]
    # At most floor(far * total) impostors may pass: the next one is the threshold.
    places = [min(int(far * total * (1 + 1e-9)), total - 1) for far in stated]
    cuts = dict(zip(stated, highest(impostors, places), strict=True)) if stated else {}
    passed = {far: int(np.sum(genuine > cut + TIE)) for far, cut in cuts.items()}
    count = len(genuine)
    return RatesAtFar(
        rates={far: passed[far] / count if far in passed else None for far in fars},
        intervals={
            far: clopper_pearson(passed[far], count) if far in passed else None for far in fars
        },
        reasons=reasons,
        thresholds={far: cuts.get(far) for far in fars},
        num_genuine=count,
        num_impostor=total,
    )


def genuine_pairs(names: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return both positions of every pair of images of one person."""
    order = np.argsort(names, kind="stable")
    sizes = np.unique(names, return_counts=True)[1]
    first, second = [], []
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        i, j = np.triu_indices(len(members), 1)
        first.append(members[i])
        second.append(members[j])
    return np.concatenate(first), np.concatenate(second)


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
        The distinct templates, ascending, and float64 (templates, d): their sums at unit length.

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
    norms, bad = norms_of(pooled)
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
