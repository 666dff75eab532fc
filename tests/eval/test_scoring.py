from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval.scoring.score_pairs import (
    embed_verification,
    mean_subtracted_cosines,
    verification_vectors,
    verify_embeddings,
)
from tf_sphereface.eval.verification import evaluate
from tf_sphereface.utils.messages import SphereFaceWarning


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(20), 4)
    vectors = rng.normal(size=(20, 6))[owners] + 0.5 * rng.normal(size=(80, 6)) + 2.0
    left = np.arange(0, 80, 2)
    right = np.where(np.arange(40) % 2, left + 1, (left + 41) % 80)
    return vectors, left, right, owners[left] == owners[right], np.arange(40) // 10


def test_scores_are_cosines_and_flip_concatenates(problem):
    vectors, left, right, same, folds = problem
    mirrored = vectors[:, ::-1] * 0.5
    table = verify_embeddings(vectors, mirrored, left, right, same, folds).table
    joined = np.concatenate([vectors, mirrored], axis=1)
    for key, x in (("none", vectors), ("flip", joined)):
        norms = np.linalg.norm(x[left], axis=1) * np.linalg.norm(x[right], axis=1)
        expected = np.sum(x[left] * x[right], axis=1) / norms
        assert table[key, "plain"].scores == pytest.approx(expected, abs=1e-12)


def test_mean_subtraction_equals_the_naive_one(naive, problem):
    vectors, left, right, same, folds = problem
    rows = mean_subtracted_cosines(vectors, left, right, folds)
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    for k, fold in enumerate(np.unique(folds)):
        expected = naive.mean_subtracted_cosines(vectors.tolist(), pairs, folds.tolist(), fold)
        assert rows[k] == pytest.approx(expected, abs=1e-12)
    table = verify_embeddings(vectors, None, left, right, same, folds).table
    assert table["none", "mean_subtracted"].accuracy == evaluate(rows, same, folds).accuracy


def test_a_common_offset_is_what_mean_subtraction_removes(problem):
    vectors, left, right, same, folds = problem
    first = verify_embeddings(vectors, None, left, right, same, folds).table
    with pytest.warns(SphereFaceWarning, match="embeddings nearly coincide"):
        second = verify_embeddings(vectors + 100, None, left, right, same, folds).table
    key = ("none", "mean_subtracted")
    # Offsets of 100 cost about two digits in float64.
    assert first[key].scores == pytest.approx(second[key].scores, abs=1e-9)
    assert np.all(second["none", "plain"].scores > 0.99)


def test_swapping_the_two_faces_of_pairs_changes_nothing(problem):
    vectors, left, right, same, folds = problem
    swap = np.arange(40) % 3 == 0
    first = verify_embeddings(vectors, vectors**2, left, right, same, folds).table
    second = verify_embeddings(
        vectors, vectors**2, np.where(swap, right, left), np.where(swap, left, right), same, folds
    ).table
    for key, result in first.items():
        assert result.scores == pytest.approx(second[key].scores, abs=1e-12)
        assert result.accuracy == second[key].accuracy


def test_the_scale_of_an_embedding_does_not_matter(problem):
    vectors, left, right, same, folds = problem
    scale = np.random.default_rng(0).uniform(1e-3, 1e3, (len(vectors), 1))
    first = verify_embeddings(vectors, None, left, right, same, folds).headline
    second = verify_embeddings(vectors * scale, None, left, right, same, folds).headline
    assert first.scores == pytest.approx(second.scores, abs=1e-12)


@pytest.mark.parametrize(("value", "kind"), [(0.0, "zero"), (np.nan, "not finite")])
def test_a_useless_embedding_is_named(problem, value, kind):
    vectors, left, right, same, folds = problem
    vectors[7] = value
    names = [f"image_{i}.jpg" for i in range(80)]
    with pytest.raises(ValueError, match=f"embedding of image_7.jpg is {kind}, 1 such"):
        verify_embeddings(vectors, None, left, right, same, folds, names=names)


def test_faces_in_memory(embedder, make_face):
    images = np.stack([make_face(i // 4, i % 4) for i in range(80)])
    left = np.arange(0, 80, 2)
    right = np.where(np.arange(40) % 2, left + 1, (left + 41) % 80)
    same, folds = left // 4 == right // 4, np.arange(40) // 10
    both = embed_verification(embedder, images, left, right, same, folds)
    assert set(both.table) == {
        (flip, mean) for flip in ("none", "flip") for mean in ("plain", "mean_subtracted")
    }
    assert both.headline is both.table["flip", "plain"]
    assert both.genuine_angle < both.impostor_angle
    plain = embed_verification(embedder, images, left, right, same, folds, flip=False)
    assert set(plain.table) == {("none", "plain"), ("none", "mean_subtracted")}
    assert plain.headline is plain.table["none", "plain"]
    assert plain.headline.scores == pytest.approx(both.table["none", "plain"].scores)
    as_function = embed_verification(lambda x: embedder(x), images, left, right, same, folds)
    assert as_function.headline.accuracy == both.headline.accuracy


def test_vectors_for_each_kind_of_flip(embedder, make_face):
    faces = np.stack([make_face(0, 0), make_face(1, 0)])
    plain, mirrored = embedder(faces), embedder(faces[:, :, ::-1])
    assert verification_vectors(embedder, faces, "none") == pytest.approx(plain)
    assert verification_vectors(embedder, faces, "sum") == pytest.approx(plain + mirrored)
    joined = np.concatenate([plain, mirrored], axis=1)
    assert verification_vectors(embedder, faces, "concat") == pytest.approx(joined)
