"""Search among distractors, in MegaFace's manner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.identification.rates import RatesAtFar, genuine_pairs, rates_at_far
from tf_sphereface.eval.identification.score_blocks import MEMORY, TIE, pair_cosines, score_blocks
from tf_sphereface.eval.measures.checks import check_rows, check_width
from tf_sphereface.eval.measures.curve import FARS
from tf_sphereface.utils.checks import check_integer

RANKS = (1, 5, 10)
"""Ranks at which identification among distractors is reported."""


@dataclasses.dataclass(frozen=True)
class DistractorResult:
    """Identification among distractors, in MegaFace's manner.

    Attributes:
        rates: number of distractors -> rank -> share of probes whose mate is within that rank.
        verification: TAR at FAR; genuine: all pairs of one person's images, impostor: all images
            with all distractors.
        num_searches: ordered pairs of two images of one person: one is searched, one is its mate.
        num_people: people with two images or more.
    """

    rates: dict[int, dict[int, float]]
    verification: RatesAtFar
    num_searches: int
    num_people: int


def with_distractors(
    probes: NDArray[np.floating],
    labels: ArrayLike,
    distractors: NDArray[np.floating],
    *,
    sizes: Sequence[int] | None = None,
    ranks: Sequence[int] = RANKS,
    fars: Sequence[float] = FARS,
    seed: int = 0,
    memory: int = MEMORY,
) -> DistractorResult:
    """Search each image among distractors and one other image of the same person, as MegaFace does.

    For every ordered pair of two images of one person the gallery is the distractors and the second
    image; the rank is 1 and the number of distractors that score as high as it or higher: a tie
    counts against the network.

    Args:
        probes: (n, d) embeddings of people who are no distractors.
        labels: (n,) who each shows; a person with one image is no probe, but an impostor.
        distractors: (m, d); may be a memory map.
        sizes: numbers of distractors to search among, each a random part of the next; None is
            10, 100, ... and all.
        ranks: ranks to count within.
        fars: false accept rates of the verification.
        seed: of the choice of distractors.
        memory: bytes that the blocks of scores may take together.

    Raises:
        ValueError: shapes do not fit, nobody has two images, a size is out of range, or an
            embedding is zero or not finite.

    Example:

    >>> people = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> strangers = np.array([[1.0, 1.0], [-1.0, 0.0]])
    >>> with_distractors(people, [0, 0, 1, 1], strangers, ranks=[1]).rates
    {2: {1: 1.0}}

    Source: Kemelmacher-Shlizerman et al., "The MegaFace Benchmark", CVPR 2016, sections 3 and 4.
    """
    names = check_rows(probes, labels, "probes")
    check_width(probes, distractors, "distractors")
    wanted = _sizes(len(distractors), sizes)
    within = [check_integer("rank", rank, 1) for rank in ranks]
    first, second = genuine_pairs(names)
    if not len(first):
        raise ValueError("labels must name somebody twice, or nobody can be found. Received: none")
    mates = pair_cosines(probes, probes, first, second, memory)
    searcher = np.concatenate([first, second])
    scores = np.concatenate([mates, mates])
    order = np.random.default_rng(seed).permutation(len(distractors))
    better = np.zeros(len(scores), np.int64)
    rates: dict[int, dict[int, float]] = {}
    begin = 0
    for size in wanted:
        part = np.sort(order[begin:size])  # in the order of the file
        better += _count_at_least(probes, distractors, searcher, scores, memory, part)
        rates[size] = {k: float(np.mean(better < k)) for k in within}
        begin = size

    def impostors() -> Iterator[NDArray[np.float64]]:
        for _, _, block in score_blocks(probes, distractors, memory):
            yield block.ravel()

    verification = rates_at_far(mates, impostors, len(probes) * len(distractors), fars)
    return DistractorResult(rates, verification, len(scores), len(np.unique(names[first])))


def _count_at_least(
    probes: NDArray[np.floating],
    distractors: NDArray[np.floating],
    searcher: NDArray[np.int64],
    scores: NDArray[np.float64],
    memory: int,
    part: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count the distractors of `part` that score at least as high as the mate, (searches,)."""
    counts = np.zeros(len(scores), np.int64)
    order = np.lexsort([scores, searcher])  # by probe, then ascending
    cuts = scores[order] - TIE
    starts = np.searchsorted(searcher[order], np.arange(len(probes) + 1))
    for rows, _, block in score_blocks(probes, distractors, memory, part):
        for probe, row in zip(range(rows.start, rows.stop), block, strict=True):
            begin, end = starts[probe], starts[probe + 1]
            if begin == end:
                continue
            high = row[row >= cuts[begin]]
            if len(high):
                passed = np.searchsorted(cuts[begin:end], high, side="right")
                by_mate = np.bincount(passed, minlength=end - begin + 1)[1:]
                counts[order[begin:end]] += np.cumsum(by_mate[::-1])[::-1]
    return counts


def _sizes(total: int, sizes: Sequence[int] | None) -> list[int]:
    if sizes is None:
        powers = [10**k for k in range(1, 10) if 10**k < total]
        return [*powers, total]
    wanted = sorted({int(size) for size in sizes})
    if not wanted or wanted[0] < 1 or wanted[-1] > total:
        raise ValueError(f"sizes must be from 1 to {total}, the distractors. Received: {sizes}")
    return wanted
