"""Hints at figures that are hardly what was meant."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval.measures.hints import COLLAPSED, REVERSED, hint_of_vectors, hints_of


@pytest.mark.parametrize("genuine", [0, 0.5, 1.0])
def test_distances_are_asked_for_their_sign_and_poor_scores_are_not(genuine):
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    scores = rng.normal(size=400) + genuine * same  # from chance on
    assert hints_of(scores, same) == []
    assert hints_of(-scores, same) == ([REVERSED] if genuine else [])


def test_embeddings_that_coincide_are_pointed_out():
    same = np.arange(40) % 2 == 0
    assert hints_of(np.where(same, 0.9999, 0.999), same) == [COLLAPSED]  # 0.8 and 2.6 degrees
    assert hints_of(np.where(same, 0.9999, 0.99), same) == []  # 0.8 and 8.1
    vectors = np.random.default_rng(0).normal(size=(20, 8))
    assert hint_of_vectors(vectors) is None
    assert hint_of_vectors(vectors + 500) == COLLAPSED
