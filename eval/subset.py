"""A fixed part of LFW's pairs, small enough to evaluate in every test run."""

from __future__ import annotations

import numpy as np

from tf_sphereface.eval.pairs import Pairs

SEED = 20170712
PAIRS_A_CLASS = 60


def draw_subset(pairs: Pairs, pairs_a_class: int = PAIRS_A_CLASS, seed: int = SEED) -> Pairs:
    """Draw the same part of every fold, at random but always the same.

    Fold by fold, `sorted(rng.choice(n, pairs_a_class, replace=False))` is taken of the n genuine
    pairs, then of the impostor pairs. With the defaults and LFW's official `pairs.txt` (10 folds of
    300 + 300) this gives the 1,200 pairs that the accuracy regression is pinned on.

    Args:
        pairs: what `read_pairs` returned.
        pairs_a_class: genuine pairs, and impostor pairs, to keep in a fold.
        seed: of `numpy.random.default_rng`.

    Returns:
        The chosen pairs, in the order of `pairs`.

    Raises:
        ValueError: a fold holds fewer pairs of a class than are to be kept.

    Example:

    >>> listed = Pairs(["a"] * 8, ["b"] * 8, np.arange(8) % 2 == 0, np.repeat([1, 2], 4))
    >>> draw_subset(listed, pairs_a_class=1).folds.tolist()
    [1, 1, 2, 2]
    """
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for fold in np.unique(pairs.folds):
        for same in (True, False):
            lines = np.flatnonzero((pairs.folds == fold) & (pairs.is_same == same))
            if not 0 < pairs_a_class <= len(lines):
                kind = "genuine" if same else "impostor"
                raise ValueError(
                    f"pairs_a_class must be from 1 to {len(lines)}, the {kind} pairs of fold "
                    f"{fold}. Received: {pairs_a_class}"
                )
            chosen += lines[rng.choice(len(lines), pairs_a_class, replace=False)].tolist()
    kept = np.array(sorted(chosen))
    return Pairs(
        [pairs.left[i] for i in kept],
        [pairs.right[i] for i in kept],
        pairs.is_same[kept],
        pairs.folds[kept],
    )
