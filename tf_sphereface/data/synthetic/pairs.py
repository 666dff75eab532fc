"""Genuine and impostor pairs in folds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class VerificationSet:
    """Images, and pairs of them in folds whose people are disjoint.

    Attributes:
        images: uint8 RGB (n, height, width, 3).
        left: int64 (pairs,), position of each pair's first image.
        right: int64 (pairs,), position of its second image.
        is_same: bool (pairs,), genuine or impostor.
        folds: int64 (pairs,), from 1.
        identities: int64 (n,), who is in each image.
    """

    images: NDArray[np.uint8]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    is_same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    identities: NDArray[np.int64]


def draw_pairs(
    people: int, pairs_per_fold: int, folds: int, count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Draw pairs among people * count images that are ordered by person."""
    if pairs_per_fold < 2 or pairs_per_fold % 2:
        raise ValueError(
            "pairs_per_fold must be even and positive, half genuine and half impostor. "
            f"Received: {pairs_per_fold}"
        )
    half, smallest = pairs_per_fold // 2, people // folds
    genuine_limit, impostor_limit = (
        smallest * count * (count - 1) // 2,
        smallest * (smallest - 1) // 2 * count**2,
    )
    if half > min(genuine_limit, impostor_limit):
        raise ValueError(
            f"pairs_per_fold={pairs_per_fold} needs {half} distinct genuine and {half} distinct "
            f"impostor pairs in each of {folds} folds; {people} identities with {count} images "
            f"each give {genuine_limit} and {impostor_limit}. "
            "Received: too few identities or images_per_identity"
        )
    rng = np.random.default_rng([seed, 0xFA])
    rows: list[tuple[int, int, bool, int]] = []
    for fold, members in enumerate(np.array_split(np.arange(people), folds), start=1):
        for same in (True, False):
            seen: set[tuple[int, int]] = set()
            while len(seen) < half:
                a = b = int(rng.choice(members))
                while not same and b == a:
                    b = int(rng.choice(members))
                i, j = (int(k) for k in rng.integers(0, count, 2))
                pair = (a * count + i, b * count + j)
                if pair[0] == pair[1] or pair in seen or pair[::-1] in seen:
                    continue
                seen.add(pair)
                rows.append((*pair, same, fold))
    table = np.array(rows, np.int64)
    return table[:, 0], table[:, 1], table[:, 2].astype(bool), table[:, 3]
