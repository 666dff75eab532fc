"""What would have given a plausible figure that is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval import identification, scores, verification
from tf_sphereface.eval.measures.clusters import score_clusters
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.protocol import _people_of
from tf_sphereface.eval.scoring.precomputed import read_embeddings

SAME, FOLDS = np.tile([True, False], 20), np.repeat([1, 2], 20)


def draws(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3 * SAME, 0.15)


@pytest.mark.parametrize("change", [lambda s: 100 * s, lambda s: s - 2])
def test_a_grid_of_cosines_is_for_cosines(change):
    values = draws()
    assert verification.evaluate(values, SAME, FOLDS, search="grid").accuracy > 0.6
    exact = verification.evaluate(values, SAME, FOLDS).accuracy
    assert verification.evaluate(change(values), SAME, FOLDS).accuracy == exact
    with pytest.raises(ValueError, match="it is for cosines"):
        verification.evaluate(change(values), SAME, FOLDS, search="grid")


@pytest.mark.parametrize(("shift", "angles"), [(0.0, True), (0.5, False)])
def test_scores_without_a_negative_one_have_no_angles(tmp_path, shift, angles):
    """They may be probabilities, or (1 + cos) / 2."""
    values = 0.5 * draws() + shift
    lines = [f"{s} {int(y)} {f}" for s, y, f in zip(values, SAME, FOLDS, strict=True)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    found = scores.evaluate(tmp_path / "s.txt").headline
    assert (found.genuine_angle is not None) is (found.impostor_angles is not None) is angles


@pytest.mark.parametrize(
    "people", [np.array([0.0, 0, 1, np.nan]), ["a", "a", "b", np.nan], ["a", "a", "b", None]]
)
def test_somebody_without_a_name_is_refused(people):
    """NumPy takes all NaN for one person."""
    with pytest.raises(ValueError, match="none in row 3"):
        identification.verify_all_pairs(np.eye(4), people, fars=[0.5])
    with pytest.raises(ValueError, match="none in row 3"):
        score_clusters([0, 0, 1, 1], people)


@pytest.mark.parametrize("far", [0, -0.1, 10])
def test_a_rate_that_is_none(far):
    with pytest.raises(ValueError, match="`far` must"):
        identification.verify_all_pairs(np.eye(4), [0, 0, 1, 1], fars=[far])


@pytest.mark.parametrize("rank", [0, 1.5])
def test_a_rank_that_is_none(rank):
    with pytest.raises(ValueError, match="`rank` must"):
        identification.with_distractors(np.eye(4), [0, 0, 1, 1], np.eye(4), ranks=[rank])


def test_a_trial_of_nobody_with_two_images_is_told():
    people = np.concatenate([np.arange(200), np.arange(4)])
    vectors = np.random.default_rng(0).standard_normal((204, 8))
    with pytest.raises(ValueError, match="enlarge share"):
        identification.blufr(vectors, people, trials=20, share=0.02, fars=[0.5])


def test_a_folder_is_a_person_where_the_pairs_say_so():
    pairs = Pairs(["a/1", "a/1"], ["a/2", "b/1"], [True, False], [1, 1])
    names, left, right = pairs.images()
    assert _people_of(names, left, right, pairs.is_same) == [name[0] for name in names]
    assert _people_of([f"set{name[-1]}/x" for name in names], left, right, pairs.is_same) is None


def test_names_of_bytes_are_names(tmp_path):
    """As HDF5 keeps them."""
    np.savez(tmp_path / "e.npz", names=np.array([b"a/1", b"b/2"]), embeddings=np.eye(2, 4))
    assert list(read_embeddings(tmp_path / "e.npz").names) == ["a/1", "b/2"]
