"""Drawn and simulated scores of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st

# Scores are k / 8: many ties, and exact in floating point, so that results compare as equal.
PAIR = st.tuples(st.integers(-8, 8).map(lambda k: k / 8), st.booleans(), st.integers(0, 3))
PAIRS = st.lists(PAIR, min_size=4, max_size=40)
LAWS = settings(max_examples=150, deadline=None)
# Drawn scores may look like distances, or all be 1.
ANY_SCORES = pytest.mark.filterwarnings("ignore::tf_sphereface.utils.messages.SphereFaceWarning")


def split(pairs: list[tuple[float, bool, int]]) -> tuple[list[float], list[bool], list[int]]:
    scores, same, folds = (list(column) for column in zip(*pairs, strict=True))
    for fold in set(folds):
        others = {y for y, f in zip(same, folds, strict=True) if f != fold}
        assume(len(others) == 2)
    return scores, same, folds


def simulated(pairs: int, seed: int = 0, separation: float = 0.5) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    same = np.tile(np.repeat([True, False], pairs // 20), 10)
    scores = np.clip(rng.normal(0, 0.12, pairs) + separation * same, -1, 1)
    return scores, same, np.repeat(np.arange(1, 11), pairs // 10)
