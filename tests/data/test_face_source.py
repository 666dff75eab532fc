"""One source of faces for a folder, a pack, arrays and rendered people."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.data import FaceSource, SyntheticFaces

SIZE = (28, 24)
PEOPLE, EACH = 3, 4
BATCHES = {"image_size": SIZE, "batch_size": 5, "augment": "strong", "seed": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return data.synthetic.write_folder(tmp_path_factory.mktemp("faces"), PEOPLE, EACH, size=SIZE)


@pytest.fixture
def made(request, folder, tmp_path):
    """A source of each sort, with what `face_dataset` takes for the same faces."""
    if request.param == "synthetic":
        arrays = data.synthetic.training_set(PEOPLE, EACH, seed=2, size=SIZE)
        return FaceSource(SyntheticFaces(PEOPLE, EACH, seed=2), **BATCHES), arrays
    if request.param == "arrays":
        arrays = data.synthetic.training_set(PEOPLE, EACH, size=SIZE)
        return FaceSource(arrays, **BATCHES), arrays
    if request.param == "pack":
        data.pack_folder(folder, tmp_path / "pack")
        return FaceSource(tmp_path / "pack", **BATCHES), folder
    return FaceSource(folder, cache=request.param, **BATCHES), folder


@pytest.mark.parametrize("made", ["memory", "none", "pack", "arrays", "synthetic"], indirect=True)
def test_the_stream_and_each_batch_are_those_of_face_dataset(made):
    source, same = made
    assert source.count() == (PEOPLE * EACH, PEOPLE)
    assert (len(source), source.num_classes, source.steps_per_epoch) == (12, 3, 2)
    assert source.counts().tolist() == [EACH] * PEOPLE
    expected = data.face_dataset(same, **BATCHES, repeat=True, start_step=3)
    for step, (left, right) in enumerate(
        itertools.islice(zip(source.stream(3), expected, strict=False), 3), start=3
    ):
        for a, b, c in zip(left, right, source.batch_at(step), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
        people = [name.split("image")[0] for name in source.files_at(step)]
        assert len(people) == len(left[1])
        assert len(set(people)) >= len(set(left[1].numpy().tolist()))
    plain = source.batch_at(3, augment="none")[0]
    assert not np.array_equal(plain, source.batch_at(3)[0])


def test_faces_are_named(folder):
    source = FaceSource(folder, **BATCHES)
    assert source.names == [f"Person_{i:06d}" for i in range(PEOPLE)]
    assert source.describe() == f"{folder.name}: 12 faces of 3 people"
    positions = np.array([5, 0])
    assert source.names_of(positions) == [str(data.scan_folder(folder).paths[i]) for i in (5, 0)]
    rendered = FaceSource(SyntheticFaces(PEOPLE, EACH), **BATCHES)
    assert rendered.names_of(positions)[0] == "synthetic person 1, image 5"
    assert rendered.names is None


def test_what_is_excluded_is_left_out_and_said(folder):
    listed = data.Exclusions(frozenset(["Person_000001"]), frozenset())
    source = FaceSource(folder, exclude=listed, **BATCHES)
    said: list[str] = []
    assert source.count(say=said.append) == (8, 2)
    assert len(source.load(say=said.append)) == 8
    assert said == ["1 identities and 0 images, 4 faces in all of 12; 1 of 3 people are gone"] * 2
    assert source.describe().endswith(", without 1 identities and 0 images")
    assert source.to_dict()["faces"]["exclude"]["identities"] == 1


def test_options_without_effect_are_refused():
    nobody = data.Exclusions(frozenset(), frozenset())
    with pytest.raises(ValueError, match="`exclude` must be None but for a folder"):
        FaceSource(SyntheticFaces(), exclude=nobody)
    with pytest.raises(ValueError, match="`cache` must be one of 'memory', 'none'"):
        FaceSource("faces", cache="faces.npy")
