"""Random trials of watch lists, in BLUFR's manner."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval._blocks import MEMORY
from tf_sphereface.eval._curve import FARS
from tf_sphereface.eval._open_set import OpenSetResult, open_set, verify_all_pairs
from tf_sphereface.eval._rates import RatesAtFar, check_rows


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

    Returns:
        The trials and their means.

    Raises:
        ValueError: fewer than four people with two images, or an embedding is zero or not finite.

    Source: Liao et al., "A Benchmark Study of Large-scale Unconstrained Face Recognition",
    IJCB 2014, section 3.
    """
    names = check_rows(embeddings, labels, "embeddings")
    people, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    if len(several) < 4 or trials < 1 or not 0 < share <= 1:
        raise ValueError(
            "labels must name four people with two images at least, trials be from 1, and share "
            f"from 0 to 1. Received: {len(several)} such people, {trials} and {share}"
        )
    rng = np.random.default_rng(seed)
    identified, verified = [], []
    for _ in range(trials):
        drawn = rng.permutation(len(people))[: max(4, round(share * len(people)))]
        known = drawn[counts[drawn] > 1]
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
                far: _mean_and_std([found.dir_at_far[rank].rates[far] for found in identified])
                for far in fars
            }
            for rank in ranks
        },
        vr_at_far={far: _mean_and_std([found.rates[far] for found in verified]) for far in fars},
    )


def _mean_and_std(rates: Sequence[float | None]) -> tuple[float, float] | None:
    stated = [rate for rate in rates if rate is not None]
    if len(stated) < len(rates):
        return None
    return float(np.mean(stated)), float(np.std(stated, ddof=1)) if len(stated) > 1 else 0.0
