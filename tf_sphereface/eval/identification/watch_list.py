"""Search in a gallery that does not hold everybody, and verification of all pairs."""

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

FEWEST_PEOPLE = 4  # of two images or more, for a trial of `blufr`


@dataclasses.dataclass(frozen=True)
class OpenSetResult:
    """Identification against a gallery that does not hold everybody.

    Attributes:
        rates: rank -> share of the genuine probes whose mate is within that rank, no threshold.
        dir_at_far: rank -> detection and identification rate at false alarm rates: the mate is
            within the rank and its score above the threshold, which a share FAR of the impostor
            probes pass with anyone in the gallery.
        num_gallery: entries of the gallery.
        num_genuine: probes with a mate.
        num_impostor: probes without.
    """

    rates: dict[int, float]
    dir_at_far: dict[int, RatesAtFar]
    num_gallery: int
    num_genuine: int
    num_impostor: int


def open_set(
    gallery: NDArray[np.floating],
    gallery_labels: ArrayLike,
    probes: NDArray[np.floating],
    probe_labels: ArrayLike,
    *,
    ranks: Sequence[int] = (1,),
    fars: Sequence[float] = FARS,
    memory: int = MEMORY,
) -> OpenSetResult:
    """Search probes in a gallery: some are in it, some are not (BLUFR's DIR at FAR, IJB's TPIR).

    Args:
        gallery: (m, d), one entry per person or several, of which the best counts.
        gallery_labels: (m,) who each shows.
        probes: (n, d).
        probe_labels: (n,); who is not in the gallery is an impostor probe.
        ranks: ranks to count within. A rank is 1 and the number of entries of other people that
            score as high as the mate or higher: a tie counts against the network.
        fars: false alarm rates.
        memory: bytes that the blocks of scores may take together.

    Raises:
        ValueError: shapes do not fit, no probe is in the gallery, or an embedding is zero or not
            finite.

    Example:

    >>> found = open_set(np.eye(2), ["A", "B"], np.array([[1, 0.1], [1, 1]]), ["A", "C"])
    >>> found.rates
    {1: 1.0}

    Source: Liao et al., "A Benchmark Study of Large-scale Unconstrained Face Recognition",
    IJCB 2014; Phillips et al., "Evaluation methods in face recognition", 2011.
    """
    enrolled = check_rows(gallery, gallery_labels, "gallery")
    searched = check_rows(probes, probe_labels, "probes")
    check_width(probes, gallery, "gallery")
    known = np.isin(searched, enrolled)
    if not np.any(known):
        raise ValueError("probe_labels must name somebody in the gallery. Received: nobody in it")
    codes = np.unique(np.concatenate([enrolled, searched]), return_inverse=True)[1]
    owner, seeker = codes[: len(enrolled)], codes[len(enrolled) :]
    mate = np.full(len(probes), -np.inf)
    other = np.full(len(probes), -np.inf)
    for rows, columns, scores in score_blocks(probes, gallery, memory):
        same = seeker[rows, None] == owner[None, columns]
        mate[rows] = np.maximum(mate[rows], np.max(scores, axis=1, initial=-np.inf, where=same))
        other[rows] = np.maximum(other[rows], np.max(scores, axis=1, initial=-np.inf, where=~same))
    better = np.zeros(len(probes), np.int64)
    for rows, columns, scores in score_blocks(probes, gallery, memory):
        ahead = scores >= mate[rows, None] - TIE
        better[rows] += np.sum(ahead & (seeker[rows, None] != owner[None, columns]), axis=1)
    strangers = np.clip(other[~known], -1.0, 1.0)
    dir_at_far = {}
    for rank in (check_integer("rank", rank, 1) for rank in ranks):
        scores = np.where(better[known] < rank, mate[known], -np.inf)
        dir_at_far[rank] = rates_at_far(
            scores, lambda: [strangers], len(strangers), fars, "impostor probes"
        )
    return OpenSetResult(
        rates={rank: float(np.mean(better[known] < rank)) for rank in dir_at_far},
        dir_at_far=dir_at_far,
        num_gallery=len(gallery),
        num_genuine=int(np.sum(known)),
        num_impostor=int(np.sum(~known)),
    )


def verify_all_pairs(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    *,
    fars: Sequence[float] = FARS,
    memory: int = MEMORY,
) -> RatesAtFar:
    """Return the verification rates over all n (n - 1) / 2 pairs: BLUFR's VR at FAR.

    Args:
        embeddings: (n, d), none zero.
        labels: (n,) who each shows; somebody at least has two.
        fars: false accept rates.
        memory: bytes that the blocks of scores may take together.

    Raises:
        ValueError: one of these does not hold.

    Example:

    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> verify_all_pairs(vectors, ["A", "A", "B"]).reasons[0.1]
    'needs 100 impostor pairs, there are 2'
    """
    names = check_rows(embeddings, labels, "embeddings")
    first, second = genuine_pairs(names)
    if not len(first):
        raise ValueError("labels must name somebody twice, or no pair is genuine. Received: none")
    codes = np.unique(names, return_inverse=True)[1]

    def impostors() -> Iterator[NDArray[np.float64]]:
        at = np.arange(len(codes))
        for rows, columns, scores in score_blocks(embeddings, embeddings, memory):
            if columns.stop <= rows.start:
                continue  # below the diagonal
            later = at[rows, None] < at[None, columns]
            yield scores[later & (codes[rows, None] != codes[None, columns])]

    genuine = pair_cosines(embeddings, embeddings, first, second, memory)
    total = len(names) * (len(names) - 1) // 2 - len(first)
    return rates_at_far(genuine, impostors, total, fars)


@dataclasses.dataclass(frozen=True)
class BLUFRResult:
    """Trials in BLUFR's manner; its own figure is mean minus standard deviation.

    Attributes:
        open_set: each trial's identification.
        verification: each trial's verification, over all pairs.
        dir_at_far: rank -> false alarm rate -> mean and standard deviation (n - 1) of the trials'
            detection and identification rates, None where a trial cannot state it.
        vr_at_far: false accept rate -> mean and standard deviation of the verification rates, None
            likewise.
    """

    open_set: list[OpenSetResult]
    verification: list[RatesAtFar]
    dir_at_far: dict[int, dict[float, tuple[float, float] | None]]
    vr_at_far: dict[float, tuple[float, float] | None]


def blufr(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    *,
    trials: int = 10,
    seed: int = 0,
    ranks: Sequence[int] = (1,),
    fars: Sequence[float] = FARS,
    share: float = 0.75,
    memory: int = MEMORY,
) -> BLUFRResult:
    """Run random trials in BLUFR's manner: part of the people, half of them in the gallery.

    Each trial draws people. Half of these (of those with two images or more) are in the gallery
    with one image, drawn too; their other images are genuine probes, and all images of the other
    half are impostor probes. All pairs of the trial's images are verified. BLUFR's own lists name
    other trials: run `open_set` and `verify_all_pairs` on them for its figures.

    Args:
        embeddings: (n, d).
        labels: (n,) who each shows.
        trials: how many, from 1.
        seed: of the draws.
        ranks: ranks to count within.
        fars: false accept rates, and false alarm rates.
        share: of the people, that are in a trial.
        memory: bytes that the blocks of scores may take together.

    Raises:
        ValueError: fewer than four people with two images, or an embedding is zero or not finite.

    Example:

    >>> people = np.repeat(np.arange(80), 3)
    >>> found = blufr(np.eye(80)[people], people, trials=2, fars=[0.1])
    >>> found.vr_at_far, len(found.open_set)
    ({0.1: (1.0, 0.0)}, 2)

    Source: Liao et al., "A Benchmark Study of Large-scale Unconstrained Face Recognition",
    IJCB 2014, section 3.
    """
    names = check_rows(embeddings, labels, "embeddings")
    people, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    if len(several) < FEWEST_PEOPLE or trials < 1 or not 0 < share <= 1:
        raise ValueError(
            "labels must name four people with two images at least, trials be from 1, and share "
            f"from 0 to 1. Received: {len(several)} such people, {trials} and {share}"
        )
    rng = np.random.default_rng(seed)
    identified, verified = [], []
    for _ in range(trials):
        drawn = rng.permutation(len(people))[: max(4, round(share * len(people)))]
        known = drawn[counts[drawn] > 1]
        if not len(known):
            raise ValueError(
                f"a trial of {len(drawn)} people has nobody with two images: enlarge share. "
                f"Received: share={share}"
            )
        known = known[: max(1, len(known) // 2)]
        order = rng.permutation(len(codes))
        enrolled = order[[int(np.argmax(codes[order] == person)) for person in known]]
        trial = np.flatnonzero(np.isin(codes, drawn))
        probes = np.setdiff1d(trial, enrolled)
        identified.append(
            open_set(
                embeddings[enrolled],
                codes[enrolled],
                embeddings[probes],
                codes[probes],
                ranks=ranks,
                fars=fars,
                memory=memory,
            )
        )
        verified.append(verify_all_pairs(embeddings[trial], codes[trial], fars=fars, memory=memory))
    return BLUFRResult(
        open_set=identified,
        verification=verified,
        dir_at_far={
            int(rank): {
                far: _mean_and_std([trial.dir_at_far[rank].rates[far] for trial in identified])
                for far in fars
            }
            for rank in ranks
        },
        vr_at_far={far: _mean_and_std([trial.rates[far] for trial in verified]) for far in fars},
    )


def _mean_and_std(rates: Sequence[float | None]) -> tuple[float, float] | None:
    stated = [rate for rate in rates if rate is not None]
    if len(stated) < len(rates):
        return None
    return float(np.mean(stated)), float(np.std(stated, ddof=1)) if len(stated) > 1 else 0.0
