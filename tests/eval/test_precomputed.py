from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface.commands.eval.main import main
from tf_sphereface.eval import lfw, scores, ytf
from tf_sphereface.eval.pairs import read_pairs
from tf_sphereface.eval.report import tables
from tf_sphereface.eval.scoring.precomputed import (
    StoredEmbeddings,
    read_embeddings,
    write_embeddings,
)
from tf_sphereface.eval.verification import compare


@pytest.fixture
def stored(lfw_folder, embedder, tmp_path):
    """The embeddings of lfw_folder's images in a file, in another order and with one to spare."""
    import cv2

    names = read_pairs(lfw_folder / "pairs.txt").images()[0]
    faces = np.stack([cv2.imread(str(lfw_folder / "images" / n))[..., ::-1] for n in names])
    plain, mirrored = embedder(faces), embedder(np.ascontiguousarray(faces[:, :, ::-1]))
    order = np.random.default_rng(0).permutation(len(names))
    path = tmp_path / "stored.npz"
    write_embeddings(
        path,
        [*(names[i] for i in order), "X/X_0001.jpg"],
        np.concatenate([plain[order], plain[:1]]),
        np.concatenate([mirrored[order], plain[:1]]),
    )
    return path


def test_lfw_of_stored_embeddings_equals_lfw_of_the_model(lfw_folder, embedder, stored):
    pairs = lfw_folder / "pairs.txt"
    expected = lfw.evaluate(embedder, lfw_folder / "images", pairs)
    found = lfw.evaluate(stored, None, pairs)
    assert found.table.keys() == expected.table.keys()
    for key, result in expected.table.items():
        assert found.table[key].scores == pytest.approx(result.scores, abs=1e-6)
    values = json.loads(json.dumps(tables.to_dict(found), allow_nan=False))
    assert values["model"]["format"] == "embeddings"
    assert values["model"]["metadata"] is None
    assert len(values["model"]["sha256"]) == 64


def test_without_mirrored_embeddings_there_is_no_flip(lfw_folder, stored):
    whole = read_embeddings(stored)
    plain = StoredEmbeddings(None, whole.names, whole.embeddings)
    found = lfw.evaluate(plain, None, lfw_folder / "pairs.txt")
    assert {flip for flip, _ in found.table} == {"none"}
    assert "the image alone" in found.protocol


def test_embeddings_that_are_missing_are_all_listed(lfw_folder, stored):
    whole = read_embeddings(stored)
    fewer = StoredEmbeddings(None, whole.names[2:], whole.embeddings[2:])
    with pytest.raises(ValueError, match=r"^2 of 30 images in the given embeddings") as error:
        lfw.evaluate(fewer, None, lfw_folder / "pairs.txt")
    for name in whole.names[:2]:
        assert f"{name}: not in the file of embeddings, which names '" in str(error.value)


def test_a_model_needs_images(lfw_folder, embedder):
    with pytest.raises(ValueError, match="images must be a folder, unless stored embeddings"):
        lfw.evaluate(embedder, None, lfw_folder / "pairs.txt")


@pytest.mark.parametrize("names", ["video", "frames"])
def test_videos_of_stored_embeddings(tmp_path, names):
    rng = np.random.default_rng(0)
    lines, listed, vectors = [], [], []
    for person in range(8):
        centre = rng.normal(size=4)
        for video in range(2):
            for frame in range(3 if names == "frames" else 1):
                listed.append(f"P{person}/{video}" + (f"/{frame}.jpg" if names == "frames" else ""))
                vectors.append(centre + 0.3 * rng.normal(size=4))
        lines.append(f"{person // 4 + 1}, 0, P{person}/0, P{person}/1, 1")
        lines.append(f"{person // 4 + 1}, 0, P{person}/0, P{person ^ 1}/1, 0")
    (tmp_path / "splits.txt").write_text("\n".join(lines))
    stored = StoredEmbeddings(None, listed, np.array(vectors, np.float32))
    found = ytf.evaluate(stored, None, tmp_path / "splits.txt")
    step = 3 if names == "frames" else 1
    pooled = np.array(vectors, np.float32).astype(float).reshape(-1, step, 4).mean(axis=1)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert found.headline.scores[0] == pytest.approx(unit[0] @ unit[1])
    with pytest.raises(ValueError, match="P7/1: not in the file of embeddings"):
        ytf.evaluate(
            StoredEmbeddings(None, listed[:-3], stored.embeddings[:-3]),
            None,
            tmp_path / "splits.txt",
        )


def test_stored_embeddings_of_nonsense_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_embeddings(tmp_path / "none.npz")
    path = tmp_path / "a.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.npz is no \.npz file of plain arrays"):
        read_embeddings(path)
    np.savez(path, names=np.array(["a"]))
    with pytest.raises(ValueError, match=r"must hold names and embeddings\. Received: names"):
        read_embeddings(path)
    np.savez(path, names=np.array(["a"]), embeddings=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"a\.npz: embeddings and mirrored must have the shape"):
        read_embeddings(path)
    np.savez(path, names=np.array(["a", "a"]), embeddings=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"names must differ\. Received: 'a' twice"):
        read_embeddings(path)
    np.savez(path, names=np.array(["a", None], object), embeddings=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"no \.npz file of plain arrays: .*astype\(str\)"):
        read_embeddings(path)
    path.write_bytes(pickle.dumps(["a"]))  # numpy.load would unpickle such a file if asked to
    with pytest.raises(ValueError, match=r"no \.npz file of plain arrays"):
        read_embeddings(path)
    with pytest.raises(ValueError, match=r"path must end in \.npz"):
        write_embeddings(tmp_path / "a.bin", ["a"], [[1.0]])


TEXT = "# score label fold\n0.9,1,1,Ann/1,Ann/2\n0.1\t0\t1\n\n0.8 true 2\n0.2 false 2\n"


def test_scores_with_labels_and_folds(tmp_path):
    path = tmp_path / "scores.txt"
    path.write_text(TEXT)
    found = scores.evaluate(path)
    assert found.headline.accuracy == 1.0
    assert found.headline.scores.tolist() == [0.9, 0.1, 0.8, 0.2]
    assert found.table.keys() == {("scores", "plain")}
    assert "4 pairs (2 genuine, 2 impostor) in 2 folds; scores as given" in found.protocol


def test_scores_from_a_table_of_floats(tmp_path):
    table = np.c_[[0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [1, 1, 2, 2]]
    np.savetxt(tmp_path / "scores.txt", table)
    found = scores.evaluate(tmp_path / "scores.txt")
    assert found.headline.accuracy == 1.0
    assert found.pairs.folds.tolist() == [1, 1, 2, 2]
    np.savetxt(tmp_path / "scores.txt", np.c_[table[:, :2], [1.5, 1, 2, 2]])
    with pytest.raises(ValueError, match="line 1: expected score, label"):
        scores.evaluate(tmp_path / "scores.txt")


def test_names_with_tabs_and_line_breaks_are_written_on_one_line(tmp_path):
    (tmp_path / "scores.txt").write_text(TEXT)
    found = scores.evaluate(tmp_path / "scores.txt")
    names = ["A\tnn/1", "B\nob/1", "C\u2028y/1", "D\x85ee/1"]
    pairs = dataclasses.replace(found.pairs, left=names)
    scores.write_scores(tmp_path / "again.txt", dataclasses.replace(found, pairs=pairs))
    again = scores.evaluate(tmp_path / "again.txt")
    assert again.pairs.left == ["A nn/1", "B ob/1", "C y/1", "D ee/1"]
    assert again.headline.scores.tolist() == found.headline.scores.tolist()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.1\t0\t1", "nan 0 1 Ann/1 Bob/1", "nan at pair 1 .*, Ann/1 and Bob/1; 1 such"),
        ("0.1\t0\t1", "x 0 1", "line 3: expected score, label"),
        ("0.1\t0\t1", "0.1 2 1", "line 3: expected score, label"),
        ("0.1\t0\t1", "0.1 0", "line 3: expected score, label"),
        ("0.9,1,1,Ann/1,Ann/2", "0.9 1", r"line 3: expected .* no fold, as the lines before"),
        ("0.1\t0\t1", "0.1", "line 3: expected score, label"),
        ("0.1\t0\t1", f"0.1 0 {2**63}", "line 3: expected score, label"),
        ("0.8 true 2\n0.2 false 2\n", "", "fold 1 only"),
    ],
)
def test_bad_scores_are_named(tmp_path, old, new, message):
    path = tmp_path / "scores.txt"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ValueError, match=message):
        scores.evaluate(path)


def test_scores_without_folds_give_rates_and_no_accuracy(tmp_path, capsys):
    rng = np.random.default_rng(3)
    same = rng.random(600) < 0.4
    values = np.clip(rng.normal(np.where(same, 0.6, 0.1), 0.25), -1, 1)
    bare, named = tmp_path / "bare.txt", tmp_path / "named.csv"
    lines = [(repr(v), str(int(y))) for v, y in zip(values.tolist(), same, strict=True)]
    bare.write_text("\n".join("\t".join(line) for line in lines))
    named.write_text("\n".join(f"{v},{y},-,Ann/{k},Bob/{k}" for k, (v, y) in enumerate(lines)))
    found = {}
    for path in (bare, named):
        out, page = path.with_suffix(".json"), path.with_suffix(".html")
        options = ["--json", str(out), "--report", str(page), "--bootstrap", "5"]
        assert main(["scores", str(path), *options]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "EER" in text
        assert "and no accuracy" in text
        assert "accuracy ±" not in text
        assert "best on test" not in text
        found[path] = json.loads(out.read_text())
        html = page.read_text()
        assert "equal error rate" in html
        assert "<h2>Folds</h2>" not in html
        assert "<h2>Accuracy</h2>" not in html
    headline = found[bare]["headline"]
    assert found[named]["headline"] == headline
    assert headline["accuracy"] is headline["std_error"] is headline["best_on_test"] is None
    assert headline["folds"] == []
    assert found[bare]["data"]["folds"] == 0
    accepted = np.sort(values[~same])[::-1][: int(0.1 * (~same).sum())]
    tar = {row["far"]: row["tar"] for row in headline["tar_at_far"]}
    assert tar[0.1] == pytest.approx(np.mean(values[same] >= accepted[-1]), abs=0.01)
    assert tar[0.001] is None
    schema = Path(tables.__file__).with_name("report_schema.json")
    pytest.importorskip("jsonschema").validate(found[bare], json.loads(schema.read_text()))
    assert main(["compare", str(bare), str(bare)]) == 2
    assert "must have folds" in " ".join(capsys.readouterr().err.split())
    assert main(["scores", str(bare), "--search", "grid"]) == 2
    assert "without folds" in " ".join(capsys.readouterr().err.split())


def test_a_byte_order_mark_is_no_part_of_a_score(tmp_path):
    path = tmp_path / "scores.txt"
    path.write_text("\ufeff0.9 1 1\r\n0.1 0 1\r\n0.8 1 2\r\n0.2 0 2\r\n", encoding="utf-8")
    found = scores.evaluate(path)
    assert found.headline.scores.tolist() == [0.9, 0.1, 0.8, 0.2]
    assert "chosen on the other;" in found.protocol
    path.write_text("\ufeffScore,label\r\n0.9,1\r\n0.1,0\r\n", encoding="utf-8")
    assert scores.evaluate(path).headline.scores.tolist() == [0.9, 0.1]


def test_landmarks_are_not_said_to_align_what_is_stored(lfw_folder, stored):
    with pytest.raises(ValueError, match=r"landmarks align images, and stored embeddings"):
        lfw.evaluate(stored, None, lfw_folder / "pairs.txt", landmarks={})


def test_the_scores_command_takes_the_order_of_a_list(lfw_folder, stored, capsys):
    pairs = lfw_folder / "pairs.txt"
    expected = lfw.evaluate(stored, None, pairs).headline
    path, out = lfw_folder / "scores.txt", lfw_folder / "out.json"
    path.write_text("\n".join(map(repr, expected.scores.tolist())))
    assert main(["scores", str(path), "--pairs", str(pairs), "--json", str(out)]) == 0
    assert "best on test" in capsys.readouterr().out
    values = json.loads(out.read_text())
    assert values["headline"]["accuracy"] == expected.accuracy
    assert values["model"]["format"] == "scores"
    names = read_pairs(pairs)
    path.write_text("\n".join(["nan", *map(repr, expected.scores.tolist()[1:])]))
    assert main(["scores", str(path), "--pairs", str(pairs)]) == 2
    assert f"{names.left[0]} and {names.right[0]}" in " ".join(capsys.readouterr().err.split())
    path.write_text("0.5\n")
    assert main(["scores", str(path), "--pairs", str(pairs)]) == 2
    assert "a score for each of 24 pairs" in " ".join(capsys.readouterr().err.split())


def test_the_lfw_command_takes_stored_embeddings(lfw_folder, stored, capsys):
    pairs = str(lfw_folder / "pairs.txt")
    assert main(["lfw", str(stored), "--pairs", pairs]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "result category: unrestricted with labeled outside data" in printed


def test_scores_that_a_protocol_writes_are_read_and_compared(lfw_folder, stored, capsys):
    pairs, first = str(lfw_folder / "pairs.txt"), lfw_folder / "first.txt"
    second, out = lfw_folder / "second.txt", lfw_folder / "out.json"
    for path, options in ((first, []), (second, ["--no-flip"])):
        arguments = ["lfw", str(stored), "--pairs", pairs, "--write-scores", str(path)]
        assert main([*arguments, *options]) == 0
    expected = [lfw.evaluate(stored, None, pairs, flip=flip).headline for flip in (True, False)]
    for path, result in zip((first, second), expected, strict=True):
        found = scores.evaluate(path)
        assert found.headline.scores.tolist() == result.scores.tolist()
        assert found.pairs.left == read_pairs(pairs).left
        assert found.headline.accuracy == result.accuracy
    capsys.readouterr()
    assert main(["compare", str(first), str(second), "--json", str(out)]) == 0
    values, paired = json.loads(out.read_text()), compare(*expected)
    assert values["only_first"] == paired.only_first
    assert values["p_value"] == paired.p_value
    assert f"{paired.only_first} / {paired.only_second}" in capsys.readouterr().out
    text = second.read_text().replace("P00/P00_0001.jpg", "P00/P00_0009.jpg", 1)
    second.write_text(text)
    assert main(["compare", str(first), str(second)]) == 2
    assert "name other pairs" in " ".join(capsys.readouterr().err.split())


def test_bootstrap_on_request(lfw_folder, stored, capsys):
    pairs, out = str(lfw_folder / "pairs.txt"), lfw_folder / "out.json"
    options = ["--bootstrap", "50", "--json", str(out)]
    assert main(["lfw", str(stored), "--pairs", pairs, *options]) == 0
    assert "pairs drawn 50 times" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.read_text())["headline"]
    low, high = found["bootstrap"]["auc"]
    assert low <= found["auc"] <= high
    assert [row["interval"] for row in found["bootstrap"]["tar_at_far"]] == [None] * 6
