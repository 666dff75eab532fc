"""Views of faces: the first is the face, the others are drawn, each by its own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.alignment.images import read_image, write_face
from tf_sphereface.data import FaceSource, SyntheticFaces, synthetic, warping

SIZE = (56, 48)


@pytest.fixture
def source() -> FaceSource:
    return FaceSource(SyntheticFaces(3, 2), image_size=SIZE, batch_size=4)


def written(folder):
    paths = sorted(folder.rglob("*.jpg"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_folder_per_person_with_all_views_of_each_face(source, tmp_path):
    seen = []
    assert data.write_views(source, tmp_path, count=3, progress=lambda *at: seen.append(at)) == 18
    found = written(tmp_path)
    assert list(found)[:3] == [f"000000/0000000-{view}.jpg" for view in range(3)]
    assert len(found) == 18
    assert {name.split("/")[0] for name in found} == {f"00000{i}" for i in range(3)}
    assert seen == [(6, 6)]
    index = data.scan_folder(tmp_path)
    assert (index.num_classes, len(index)) == (3, 18)
    assert not index.passed_over.summary()
    faces = synthetic.training_set(3, 2, size=SIZE)[0].astype(int)
    for number in range(6):
        first, warped, blend = (
            read_image(tmp_path / f"{number // 2:06d}/{number:07d}-{view}.jpg").astype(int)
            for view in range(3)
        )
        error = np.abs(first - faces[number]).mean()
        assert error < 6  # JPEG
        assert np.abs(warped - faces[number]).mean() > 2 * error
        assert np.abs(blend - faces[number]).mean() > 2 * error


def test_a_blend_is_half_its_own_face_or_more(monkeypatch):
    for name in ("TURN", "SCALE", "SHIFT", "CONTRAST", "BRIGHTNESS", "GRAY"):
        monkeypatch.setattr(warping, name, 0.0)
    black, white = np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 255, np.uint8)
    blends = [data.draw_view(black, white, np.random.default_rng(seed)) for seed in range(60)]
    shares = [blend.mean() / 255 for blend in blends]  # of the other one
    assert 0 <= min(shares) < 0.05
    assert 0.45 < max(shares) <= 0.5 + 0.5 / 255  # rounded to a whole number
    assert all(np.ptp(blend) == 0 for blend in blends)


def test_light_is_clipped_and_the_given_faces_are_left_alone():
    face = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    before = face.copy()
    views = [data.draw_view(face, face, np.random.default_rng(seed)) for seed in range(20)]
    assert (face == before).all()
    assert {view.dtype for view in views} == {np.dtype(np.uint8)}
    assert len({view.tobytes() for view in views}) == 20


def test_the_same_call_goes_on_and_gives_the_same_bytes(source, tmp_path):
    data.write_views(source, tmp_path / "whole", count=3, seed=5)
    whole = written(tmp_path / "whole")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.write_views(source, tmp_path / "cut", count=3, seed=5, progress=stop)
    for path in sorted((tmp_path / "cut").rglob("*.jpg"))[::2]:
        path.unlink()
    data.write_views(source, tmp_path / "cut", count=3, seed=5)
    assert written(tmp_path / "cut") == whole
    data.write_views(source, tmp_path / "other", count=3, seed=6)
    other = written(tmp_path / "other")
    for name, content in whole.items():
        assert (other[name] == content) == name.endswith("-0.jpg")


@pytest.mark.parametrize("change", [{"count": 4}, {"seed": 1}])
def test_a_folder_of_something_else_is_refused(source, tmp_path, change):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(ValueError, match=r"must be empty.*letter\.txt"):
        data.write_views(source, tmp_path / "full")
    data.write_views(source, tmp_path / "views", count=2)
    before = written(tmp_path / "views")
    with pytest.raises(ValueError, match="the same call has begun"):
        data.write_views(source, tmp_path / "views", **{"count": 2, **change})
    assert written(tmp_path / "views") == before
    with pytest.raises(ValueError, match="count"):
        data.write_views(source, tmp_path / "none", count=0)
    assert not (tmp_path / "none").exists()


def test_faces_without_labels_and_a_damaged_file(tmp_path):
    faces = synthetic.training_set(2, 2, size=SIZE)[0]
    for number, face in enumerate(faces):
        write_face(tmp_path / "flat" / f"{number}.png", face)
    (tmp_path / "flat" / "x.png").write_bytes(b"no picture")
    source = FaceSource(tmp_path / "flat", image_size=SIZE, unlabelled=True)
    assert data.write_views(source, tmp_path / "views", count=2) == 8
    assert len(written(tmp_path / "views")) == 8
    assert source.report.count == 1


def test_a_folder_among_the_faces_is_refused(tmp_path):
    synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    source = FaceSource(tmp_path / "faces", image_size=SIZE)
    with pytest.raises(ValueError, match="must lie outside of source"):
        data.write_views(source, tmp_path / "faces" / "views")
    assert not (tmp_path / "faces" / "views").exists()


def test_a_pack_whose_names_lead_out_of_the_folder_is_refused(tmp_path):
    synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    data.pack_folder(tmp_path / "faces", tmp_path / "packed")
    source = FaceSource(tmp_path / "packed", image_size=SIZE)
    assert data.write_views(source, tmp_path / "good", count=1) == 4
    assert sorted(written(tmp_path / "good"))[0] == "Person_000000/0000000-0.jpg"
    names = tmp_path / "packed" / "classes.tsv"
    names.write_bytes(names.read_bytes().replace(b"Person_000001", b"../../escape"))
    with pytest.raises(ValueError, match="must be that of a folder"):
        data.write_views(FaceSource(tmp_path / "packed", image_size=SIZE), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
