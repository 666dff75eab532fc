"""Names, hashes, thresholds and pairs of people and pictures that are alike."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from tf_sphereface.data import likeness, synthetic


def noise(count, dim=64, seed=0):
    return likeness.unit(np.random.default_rng(seed).normal(size=(count, dim)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("George_W_Bush", "bush, George W.", True),
        ("José_Álvarez", "jose-alvarez", True),
        ("Ada_Lovelace", "Ada_Byron", False),
        ("0166921", "166921", False),
        ("n000001", "n000001", True),
        ("Ana_Ana", "Ana", False),
    ],
)
def test_names(one, other, same):
    assert bool(likeness.same_names([one], [other])) == same


def test_a_hash_survives_recompression_and_scaling():
    faces = synthetic.faces(identities=range(12), samples=[0] * 12)
    hashes = [likeness.difference_hash(face) for face in faces]
    for face, known in zip(faces, hashes, strict=True):
        _, data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 60])
        again = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (144, 168))
        assert np.unpackbits(known ^ likeness.difference_hash(again)).sum() <= 26
    vectors = likeness.hash_vectors(np.stack(hashes))
    bits = likeness.differing_bits(vectors @ vectors.T)
    expected = [[int(np.unpackbits(a ^ b).sum()) for b in hashes] for a in hashes]
    np.testing.assert_array_equal(bits, expected)
    assert min(bits[np.triu_indices(12, 1)]) > 26


def test_pairs_above_is_the_whole_product(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 7)
    left, right = noise(30), noise(20, seed=1)
    scores = left @ right.T
    found = list(likeness.pairs_above(left, right, 0.2))
    assert [(row, column) for row, column, _ in found] == list(
        zip(*np.nonzero(scores > 0.2), strict=True)
    )
    np.testing.assert_allclose([c for *_, c in found], scores[scores > 0.2], rtol=1e-6)


def test_centroids():
    vectors = likeness.unit(np.array([[1.0, 0], [0, 1], [0, 1], [0, -1]]))
    found = likeness.centroids(vectors, np.array([0, 0, 2, 2]), 3)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found, [[half, half], [0, 0], [0, 0]], atol=1e-7)


def test_the_threshold_lets_about_as_many_through_as_was_asked():
    """Cosines of noise in 64 dimensions are N(0, 1/64): the truth is known."""
    test, labels = noise(1500), np.arange(1500)
    found = likeness.chance_threshold(test, labels, pairs=100_000_000, expected=10)
    assert found.impostors == 1500 * 1499 // 2
    share = 0.5 * math.erfc(found.cosine * 8 / math.sqrt(2))
    # The tail has 113 pairs, and its scale a standard error of 14 %: e to the power of a few times
    # 0.14 times the logarithm of what it is continued over.
    assert 0.1 < share * 100_000_000 / 10 < 10
    assert "of the 100,000,000 pairs compared 10 are above by chance" in found.reason()


def test_a_few_wrong_names_in_the_test_set_do_not_move_it(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 100)
    test, labels = noise(1500), np.arange(1500)
    clean = likeness.chance_threshold(test, labels, pairs=10_000_000)
    test[1:9:2] = test[0:8:2]  # four people under two names each
    found = likeness.chance_threshold(test, labels, pairs=10_000_000)
    assert found.highest == pytest.approx(1.0)
    # The tail has 113 pairs, its median a standard error of 14 %.
    assert abs(found.cosine - clean.cosine) < 0.05
    named = likeness.impostors_above(test, labels, found.cosine)
    assert [pair[:2] for pair in named] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_pairs_of_one_person_are_no_impostors():
    test = noise(200)
    test[100:] = test[:100]
    labels = np.tile(np.arange(100), 2)
    found = likeness.chance_threshold(test, labels, pairs=1_000_000)
    assert found.impostors == 200 * 199 // 2 - 100
    assert found.highest < 0.9
    assert likeness.impostors_above(test, labels, 0.9) == []


def test_people_are_found_again():
    test = noise(6)
    vectors = test[[0, 1, 0, 1, 2, 3, 4]]  # two people with two equal images, one with unlike ones
    labels = np.array([5, 7, 5, 7, 9, 9, 11])
    assert likeness.share_found(vectors, labels, 0.9) == (pytest.approx(2 / 3), 3)
    assert likeness.share_found(vectors[:2], labels[:2], 0.9) is None


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"45 pairs of different people .* too few"):
        likeness.chance_threshold(noise(10), np.arange(10), pairs=100)
    with pytest.raises(ValueError, match=r"`expected` must be a number in \(0, inf\)\. Received"):
        likeness.chance_threshold(noise(100), np.arange(100), pairs=100, expected=0)
