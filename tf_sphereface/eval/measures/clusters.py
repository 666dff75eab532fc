"""Agreement of clusters with people: pairwise and BCubed precision, recall and F."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.checks import check_named

Rates = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class ClusterScore:
    """How clusters agree with people; rates are fractions.

    Attributes:
        pairwise: precision, recall and F over pairs of faces. Precision is the share of the pairs
            in one cluster that show one person, recall the share of the pairs of one person that
            are in one cluster.
        bcubed: the same as means over faces, so that large clusters do not count by their square.
        faces: how many faces.
        people: how many people they show.
        clusters: of two faces at least.
        mixed: clusters that hold several people.
        split: people in several clusters of two faces at least.
    """

    pairwise: Rates
    bcubed: Rates
    faces: int
    people: int
    clusters: int
    mixed: int
    split: int

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        for name in ("pairwise", "bcubed"):
            values[name] = dict(zip(("precision", "recall", "f"), values[name], strict=True))
        return values


def score_clusters(labels: ArrayLike, people: Sequence[str] | ArrayLike) -> ClusterScore:
    """Compare clusters with people.

    Args:
        labels: integers (n,), the cluster of each face; negative: a face by itself.
        people: (n,), who each face shows.

    Raises:
        ValueError: the lengths differ, or there is no face.

    Example:

    >>> score = score_clusters([0, 0, 0, -1], ["a", "a", "b", "b"])
    >>> [round(value, 3) for value in (*score.pairwise, *score.bcubed)]
    [0.333, 0.5, 0.4, 0.667, 0.75, 0.706]

    Source: Bagga and Baldwin, "Algorithms for scoring coreference chains", 1998 (BCubed).
    """
    given = np.asarray(labels, np.int64)
    names = check_named(people)
    if given.shape != names.shape or given.ndim != 1 or not len(given):
        raise ValueError(
            "Argument `labels` must be (n,), as long as `people`, n at least 1. "
            f"Received: shapes {given.shape} and {names.shape}"
        )
    alone = given < 0
    given = np.where(alone, given.max(initial=0) + 1 + np.arange(len(given)), given)
    cluster = np.unique(given, return_inverse=True)[1].astype(np.int64)
    person = np.unique(names, return_inverse=True)[1].astype(np.int64)
    cells, cell, counts = np.unique(
        cluster * (person.max() + 1) + person, return_inverse=True, return_counts=True
    )
    in_cluster, in_person = np.bincount(cluster), np.bincount(person)
    together = counts[cell]
    large = in_cluster[cells // (person.max() + 1)] > 1
    return ClusterScore(
        pairwise=_rates(
            _share(_pairs(counts), _pairs(in_cluster)), _share(_pairs(counts), _pairs(in_person))
        ),
        bcubed=_rates(
            float(np.mean(together / in_cluster[cluster])),
            float(np.mean(together / in_person[person])),
        ),
        faces=len(given),
        people=len(in_person),
        clusters=int(np.sum(in_cluster > 1)),
        mixed=_repeated(cells[large] // (person.max() + 1)),
        split=_repeated(cells[large] % (person.max() + 1)),
    )


def _pairs(counts: NDArray[np.int64]) -> int:
    return int(np.sum(counts * (counts - 1) // 2))


def _share(part: int, whole: int) -> float:
    """Return a share; 1 where there is nothing to be wrong about."""
    return part / whole if whole else 1.0


def _rates(precision: float, recall: float) -> Rates:
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _repeated(values: NDArray[np.int64]) -> int:
    """Return how many values stand there more than once."""
    return int(np.sum(np.unique(values, return_counts=True)[1] > 1))
