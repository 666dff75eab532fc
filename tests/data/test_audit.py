"""Overlaps of two sets of faces, from arrays and from folders."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.data import likeness, synthetic

RANDOM = np.random.default_rng(7)


def face_set(people, labels, vectors=None, hashes=None):
    labels = np.asarray(labels)
    if hashes is None:  # no two are alike
        hashes = RANDOM.integers(0, 256, (len(labels), 32))
    files = [f"{people[label]}/{i}.jpg" for i, label in enumerate(labels)]
    if vectors is not None:
        vectors = likeness.unit(np.asarray(vectors))
    return data.FaceSet(people, files, labels, np.asarray(hashes, np.uint8), vectors)


def pairs(matches):
    return [(match.first, match.second, match.why) for match in matches]


LIMITS = {"identity_cosine": 0.9, "image_cosine": 0.9, "hash_bits": 4}


def test_people_and_pictures_by_every_comparison():
    noise = np.random.default_rng(0).normal(size=(6, 64))
    train = face_set(["Ada_L", "B", "C"], [0, 0, 1, 2], noise[[0, 1, 2, 3]])
    test = face_set(["l ada", "X", "Y"], [0, 1, 2, 2], noise[[4, 2, 5, 5]])
    test.hashes[2] = train.hashes[3] ^ np.eye(1, 32, dtype=np.uint8)[0]  # one bit
    overlap = data.find_overlap(train, test, **LIMITS)
    assert pairs(overlap.identities) == [("B", "X", ("centroid",)), ("Ada_L", "l ada", ("name",))]
    assert overlap.identities[0].cosine == pytest.approx(1, abs=1e-6)
    assert pairs(overlap.images) == [("B/2.jpg", "X/1.jpg", ("embedding",))]
    assert overlap.contradicted == 1  # the hash alone, of unlike embeddings
    assert overlap.people_found_again == (1.0, 1)
    assert overlap.hash_bits_allowed == 4
    assert set(overlap.exclusions()) == {"B", "Ada_L"}
    unnamed = data.find_overlap(train, test, names=False, **LIMITS)
    assert pairs(unnamed.identities) == [("B", "X", ("centroid",))]


def test_without_embeddings_hashes_decide():
    train, test = face_set(["A", "B"], [0, 1, 1]), face_set(["a", "X", "Y"], [0, 1, 2, 2])
    test.hashes[[0, 3]] = train.hashes[[0, 2]]
    overlap = data.find_overlap(train, test, hash_bits=4)
    assert pairs(overlap.identities) == [("A", "a", ("name",))]
    assert {match.cosine for match in overlap.identities + overlap.images} == {None}
    assert [(match.first, match.hash_bits) for match in overlap.images] == [
        ("A/0.jpg", 0),
        ("B/2.jpg", 0),
    ]
    because = overlap.exclusions()
    assert list(because) == ["A", "B/2.jpg"]
    assert because["B/2.jpg"].second == "Y/3.jpg"
    assert set(overlap.thresholds) == {"hashes"}


def test_wrong_names_within_the_test_set():
    noise = np.random.default_rng(1).normal(size=(4, 64))
    train = face_set(["A"], [0], noise[:1])
    test = face_set(["X", "Y", "Z"], [0, 1, 2], noise[[1, 1, 2]])
    (suspects,) = data.find_overlap(train, test, **LIMITS).suspects_in_test
    assert (suspects.first, suspects.second) == ("X/0.jpg", "Y/1.jpg")


@pytest.mark.parametrize("missing", LIMITS)
def test_a_threshold_that_cannot_be_read_is_named(missing):
    faces = face_set(["A", "B"], [0, 1], np.eye(2))
    limits = {name: value for name, value in LIMITS.items() if name != missing}
    with pytest.raises(ValueError, match=rf"too few .* give it: {missing} \(--"):
        data.find_overlap(faces, faces, **limits)


def test_a_folder_and_its_pack_are_the_same_set(tmp_path):
    folder = synthetic.write_folder(tmp_path / "faces", 3, 2, size=(56, 48))
    data.pack_folder(folder, tmp_path / "pack")
    bad = folder / "Person_000001" / "bad.jpg"
    bad.write_bytes(b"no image")
    done = []
    sets = [
        data.read_face_set(
            source,
            embed=lambda images: images.reshape(len(images), -1)[:, ::97],
            size=(56, 48),
            progress=lambda *state: done.append(state),
        )
        for source in (folder, data.open_pack(tmp_path / "pack"))
    ]
    assert done == [(7, 7), (6, 6)]
    assert list(sets[0].unread) == ["Person_000001/bad.jpg"]
    assert not sets[1].unread
    for faces in sets:
        assert list(faces.people) == ["Person_000000", "Person_000001", "Person_000002"]
        np.testing.assert_array_equal(faces.labels, [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(faces.vectors, sets[0].vectors)
        np.testing.assert_array_equal(faces.hashes, sets[0].hashes)
    assert sets[0].files == sets[1].files
    for path in folder.glob("*/*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 7 images in .* can be used, such as Person"):
        data.read_face_set(folder)


def test_an_embedding_that_is_no_number_makes_its_picture_unread(tmp_path):
    """A person's mean would be no number either, and the person never found again."""
    folder = synthetic.write_folder(tmp_path / "faces", 3, 2, size=(28, 24))

    def embed(images):
        vectors = images.reshape(len(images), -1).astype(np.float32)
        vectors[0] = np.nan
        vectors[1] = 0
        return vectors

    found = data.read_face_set(folder, embed=embed, size=(28, 24))
    assert list(found.unread.values()) == ["its embedding is zero or not finite"] * 2
    assert found.labels.tolist() == [1, 1, 2, 2]
    assert (len(found.hashes), len(found.vectors), len(found.files)) == (4, 4, 4)

    def broken(images):
        return np.full((len(images), 4), np.nan)

    with pytest.raises(ValueError, match=r"none of the 6 images .* zero or not finite"):
        data.read_face_set(folder, embed=broken, size=(28, 24))
