"""Genuine and impostor pairs in folds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_integer, error


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
    num_identities: int, pairs_per_fold: int, folds: int, images_per_identity: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Draw pairs among num_identities * images_per_identity images that are ordered by person."""
    people = check_integer("num_identities", num_identities, 1)
    count = check_integer("images_per_identity", images_per_identity, 1)
    check_integer("folds", folds, 1)
    check_integer("seed", seed, 0)
    if check_integer("pairs_per_fold", pairs_per_fold, 2) % 2:
        raise error("pairs_per_fold", "be even, half genuine and half impostor", pairs_per_fold)
    half, smallest = pairs_per_fold // 2, people // folds
    genuine_limit = smallest * count * (count - 1) // 2
    impostor_limit = smallest * (smallest - 1) // 2 * count**2
    if half > min(genuine_limit, impostor_limit):
        raise error(
            "pairs_per_fold",
            f"be at most {2 * min(genuine_limit, impostor_limit)}: in each of {folds} folds "
            f"{people} identities with {count} images each give {genuine_limit} distinct genuine "
            f"and {impostor_limit} distinct impostor pairs",
            pairs_per_fold,
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
