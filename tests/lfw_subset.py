"""The fixed part of LFW's View 2 on which the accuracy regression is pinned."""

from __future__ import annotations

import numpy as np

from tf_sphereface.eval.pairs import Pairs

SEED = 20170712
PAIRS_PER_CLASS = 60


def draw_subset(pairs: Pairs, pairs_per_class: int = PAIRS_PER_CLASS, seed: int = SEED) -> Pairs:
    """Draw the same part of every fold, at random but always the same.

    Fold by fold, `sorted(rng.choice(n, pairs_per_class, replace=False))` is taken of the n genuine
    pairs, then of the impostor pairs. With the defaults and LFW's official `pairs.txt` (10 folds of
    300 + 300) this gives the 1,200 pairs that the accuracy regression is pinned on.

    Args:
        pairs: what `read_pairs` returned.
        pairs_per_class: genuine pairs, and impostor pairs, to take of a fold.
        seed: of `numpy.random.default_rng`.

    Returns:
        The chosen pairs, in the order of `pairs`.

    Raises:
        ValueError: a fold holds fewer pairs of a class than are to be taken.
    """
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for fold in np.unique(pairs.folds):
        for same in (True, False):
            lines = np.flatnonzero((pairs.folds == fold) & (pairs.is_same == same))
            if not 0 < pairs_per_class <= len(lines):
                kind = "genuine" if same else "impostor"
                raise ValueError(
                    f"pairs_per_class must be from 1 to {len(lines)}, the {kind} pairs of fold "
                    f"{fold}. Received: {pairs_per_class}"
                )
            chosen += lines[rng.choice(len(lines), pairs_per_class, replace=False)].tolist()
    subset = np.array(sorted(chosen))
    return Pairs(
        [pairs.left[i] for i in subset],
        [pairs.right[i] for i in subset],
        pairs.is_same[subset],
        pairs.folds[subset],
    )
