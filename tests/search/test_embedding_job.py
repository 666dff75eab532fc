"""Embedding jobs: what they hold, how they are cut, and how they go on."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

from tf_sphereface import data, search
from tf_sphereface.alignment import read_image
from tf_sphereface.commands.search import main
from tf_sphereface.embedder import load_embedder
from tf_sphereface.search.face_table import join_faces

TOLERANCE = 1e-6  # of the cosine between two vectors of one face


def run(*arguments) -> int:
    return main.main([str(argument) for argument in arguments])


def same(left, right) -> bool:
    cosines = np.sum(left.unit() * right.unit(), axis=1, dtype=np.float64)
    return left.paths == right.paths and bool((cosines > 1 - TOLERANCE).all())


@pytest.fixture(scope="module")
def whole(model, faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "faces.npz"
    assert run("embed", model, faces, "--out", out, "--jobs", 2) == 0
    return search.load_faces(out)


def test_an_npz_opens_without_pickle_and_holds_what_the_embedder_gives(model, faces, tmp_path):
    out = tmp_path / "faces.npz"
    assert run("embed", model, faces, "--out", out, "--json", tmp_path / "j.json") == 0
    with np.load(out, allow_pickle=False) as stored:
        paths, vectors = stored["paths"].tolist(), stored["embeddings"]
        assert np.isnan(stored["scores"]).all()
    assert paths == sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.jpg"))
    images = np.stack([read_image(faces / path) for path in paths])
    embedder = load_embedder(model)
    expected = np.concatenate([embedder(images), embedder(images[:, :, ::-1])], axis=1)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert json.loads((tmp_path / "j.json").read_text())["faces"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.npz", "j.json"]


def test_packs_and_rec_files_give_the_vectors_of_the_folder(model, faces, whole, tmp_path):
    data.pack_folder(faces, tmp_path / "pack")
    data.write_rec(faces, tmp_path / "rec")
    for source in ("pack", "rec"):
        out = tmp_path / f"{source}.npz"
        assert run("embed", model, tmp_path / source, "--out", out) == 0
        table = search.load_faces(out)
        assert len(table) == len(whole)
        cosines = table.unit() @ whole.unit().T
        assert (cosines.max(axis=1) > 1 - TOLERANCE).all()
    assert search.load_faces(tmp_path / "pack.npz").paths == whole.paths


@pytest.mark.parametrize("options", [["--batch-size", 7], ["--jobs", 1, "--batch-size", 1]])
def test_batches_and_threads_change_nothing(model, faces, whole, tmp_path, options):
    assert run("embed", model, faces, "--out", tmp_path / "f.npz", *options) == 0
    assert same(search.load_faces(tmp_path / "f.npz"), whole)


def test_shares_count_from_one_and_join_to_the_whole(model, faces, whole, tmp_path, capsys):
    files = [tmp_path / f"{i}.npz" for i in (3, 1, 2)]
    for file in files:
        assert run("embed", model, faces, "--out", file, "--share", f"{file.stem}/3") == 0
    assert run("join", *files, "--out", tmp_path / "all.npz") == 0
    assert same(search.load_faces(tmp_path / "all.npz"), whole)
    assert run("join", *files[:2], "--out", tmp_path / "less.npz") == 2
    assert "share 2/3 is missing" in capsys.readouterr().err
    assert not (tmp_path / "less.npz").exists()
    with pytest.raises(SystemExit):
        run("embed", model, faces, "--out", tmp_path / "0.npz", "--share", "0/3")


def test_more_shares_than_pictures_leave_empty_tables(model, photos, tmp_path):
    for number in (1, 2, 3, 4, 5, 6):
        search.embed_faces(model, photos / "a", tmp_path / f"{number}.npz", share=(number, 6))
    join = search.join_faces([tmp_path / f"{i}.npz" for i in range(1, 7)], tmp_path / "all.npz")
    assert join == {"faces": 3, "shares": 6}


def test_a_stopped_job_goes_on_and_repeats_what_has_changed(model, faces, tmp_path):
    out = tmp_path / "f.npz"

    def stop(done, total):
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.embed_faces(model, faces, out, jobs=1, progress=stop)
    assert not out.exists()
    parts = sorted((tmp_path / "f.npz.parts").iterdir())
    assert 2 <= len(parts) < 7
    parts[0].write_bytes(b"cut off")
    result = search.embed_faces(model, faces, out, jobs=1)
    assert (result.faces, result.pictures) == (100, 100)
    assert result.reused == 16 * (len(parts) - 1)
    assert not (tmp_path / "f.npz.parts").exists()
    with pytest.raises(KeyboardInterrupt):
        search.embed_faces(model, faces, out, jobs=1, progress=stop)
    again = search.embed_faces(model, faces, out, jobs=1, min_face=40)
    assert again.reused == 0  # another setting


def test_photographs_give_every_face_and_the_others_are_named(model, photos, tmp_path, capsys):
    out = tmp_path / "p.npz"
    assert run("embed", model, photos, "--out", out, "--json", tmp_path / "p.json") == 1
    table = search.load_faces(out)
    assert table.paths == ["a/one.png", "a/two.png", "a/two.png"]
    assert table.faces.tolist() == [0, 0, 1]
    assert table.points.shape == (3, 5, 2)
    assert (table.scores > 0.8).all()
    assert (table.boxes[:, 2] - table.boxes[:, 0] > 28).all()
    np.testing.assert_allclose(table.norms, np.linalg.norm(table.embeddings, axis=1), rtol=1e-5)
    failed = json.loads((tmp_path / "p.json").read_text())["failed"]
    assert failed == table.failed
    assert failed == {
        "none.png": "no face was found",
        "broken.jpg": "truncated or not an image",
    }
    assert "broken.jpg" in capsys.readouterr().err


def test_bad_input_is_named(model, faces, tmp_path, capsys):
    assert run("embed", model, tmp_path / "none", "--out", tmp_path / "f.npz") == 2
    (tmp_path / "empty").mkdir()
    assert run("embed", model, tmp_path / "empty", "--out", tmp_path / "f.npz") == 2
    assert "holds no pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("embed", model, faces, "--out", tmp_path / "f.csv")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.npz is no whole table"):
        search.load_faces(tmp_path / "bad.npz")
    search.FaceTable(["a"], np.ones((1, 2))).save(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="without --share"):
        search.join_faces([tmp_path / "one.npz"], tmp_path / "all.npz")


def test_parquet_holds_the_same_in_row_groups(model, photos, faces, whole, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra search")
    assert run("embed", model, faces, "--out", tmp_path / "f.parquet") == 0
    file = parquet.ParquetFile(tmp_path / "f.parquet")
    assert file.num_row_groups > 1
    assert same(search.load_faces(tmp_path / "f.parquet"), whole)
    assert run("embed", model, photos, "--out", tmp_path / "p.parquet") == 1
    table = search.load_faces(tmp_path / "p.parquet")
    assert table.faces.tolist() == [0, 0, 1]
    assert table.points.shape == (3, 5, 2)
    assert len(table.failed) == 2
    assert table.facts["flip"] == "concat"
    empty = search.FaceTable([], np.zeros((0, 20)))
    empty.save(tmp_path / "e.parquet")
    assert search.load_faces(tmp_path / "e.parquet").embeddings.shape == (0, 20)


def test_without_pyarrow_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"tf_sphereface\[search\]"):
        search.FaceTable(["a"], np.ones((1, 2))).save(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_gives_the_vectors_of_the_command(model, photos):
    embed = search.FaceVectors(model)
    names = ["a/one.png", "a/two.png", "none.png", "broken.jpg"]
    rows = embed({"path": np.array([str(photos / name) for name in names], object)})
    assert rows["problem"].tolist()[:3] == ["", "", ""]
    assert rows["problem"].tolist()[3:] == ["no face was found", "truncated or not an image"]
    assert rows["face"].tolist() == [0, 0, 1, -1, -1]
    assert len({len(column) for column in rows.values()}) == 1
    assert np.isnan(rows["embedding"][3:]).all()
    contents = [(photos / name).read_bytes() for name in names]
    again = embed({"path": names, "bytes": contents})
    np.testing.assert_array_equal(again["embedding"], rows["embedding"])


def test_one_name_among_many_that_is_no_utf8_costs_nothing(tmp_path):
    """It may come in any part of a job, or in one share of several."""
    names = [["a.jpg"], [os.fsdecode(b"\xe9.jpg")], ["c.jpg"]]
    shares = []
    for number, paths in enumerate(names, start=1):
        table = search.FaceTable(paths, np.eye(1, 4), facts={"share": [number, 3]})
        shares.append(tmp_path / f"{number}.parquet")
        table.save(shares[-1])
    join_faces(shares, tmp_path / "all.parquet")
    assert search.load_faces(tmp_path / "all.parquet").paths == [name for (name,) in names]


def test_shares_of_other_facts_are_refused_by_name(tmp_path):
    for number, facts in ((1, {"model": "m", "flip": "sum"}), (2, {"model": "m"})):
        table = search.FaceTable(["a.jpg"], np.eye(1, 4), facts={**facts, "share": [number, 2]})
        table.save(tmp_path / f"{number}.npz")
    with pytest.raises(ValueError, match="their flip is None and 'sum'"):
        join_faces([tmp_path / "1.npz", tmp_path / "2.npz"], tmp_path / "all.npz")
