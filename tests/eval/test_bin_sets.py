"""All .bin sets of a folder in one table: what is read, what fails, and the figures."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tf_sphereface.commands.eval.main import main
from tf_sphereface.eval import bin_sets, bins
from tf_sphereface.eval.report.bin_sets import sets_to_dict
from tf_sphereface.eval.report.provenance import published_sets
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings

LABELS = [k % 2 == 0 for k in range(24)]


# A pickle of Python 2, protocol 2, instruction by instruction -----------------------------------


def py2_string(data: bytes) -> bytes:
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data  # SHORT_BINSTRING
    return b"T" + struct.pack("<i", len(data)) + data  # BINSTRING


def py2_array(data: bytes, shape: tuple[int, ...]) -> bytes:
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), 'b')` and its state."""
    sides = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"t"
    minus = b"J\xff\xff\xff\xff"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * minus + b"K\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return made + b"(K\x01" + sides + kind + b"\x89" + py2_string(data) + b"tb"


def py2_set(images: list[bytes], labels: list[bool], write: Callable[[bytes], bytes]) -> bytes:
    """A tuple of two lists, as cPickle writes it."""
    first = b"](" + b"".join(write(image) for image in images) + b"e"
    second = b"](" + b"".join(b"\x88" if label else b"\x89" for label in labels) + b"e"
    return b"\x80\x02" + first + second + b"\x86."


def arrays(images: list[bytes], shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.frombuffer(image, np.uint8).reshape(shape) for image in images]


WRITERS: dict[str, Callable[[list[bytes], list[bool]], bytes]] = {
    "lfw": lambda i, y: pickle.dumps((i, y), 4),
    "cfp_fp": lambda i, y: py2_set(i, y, py2_string),
    "cfp_ff": lambda i, y: py2_set(i, y, lambda image: py2_array(image, (len(image),))),
    "agedb_30": lambda i, y: py2_set(i, y, lambda image: py2_array(image, (len(image), 1))),
    "calfw": lambda i, y: pickle.dumps((i, y), 2),
    "cplfw": lambda i, y: pickle.dumps([arrays(i, (-1, 1)), np.array(y)], 3),
    "vgg2_fp": lambda i, y: pickle.dumps((arrays(i, (-1,)), y), 5),
    "own": lambda i, y: pickle.dumps(([b.decode("latin1") for b in i], [int(v) for v in y]), 0),
}


@pytest.fixture(scope="module")
def faces(make_face) -> list[np.ndarray]:
    """24 pairs: two images of one person, then one of the next and one of another."""
    rows = [(k, 0) if i == 0 else (k + k % 2, 1) for k in range(24) for i in (0, 1)]
    return [make_face(*row) for row in rows]


def encoded(face: np.ndarray, suffix: str, wide: bool) -> bytes:
    if wide:
        face = np.pad(face, ((0, 0), (8, 8), (0, 0)), mode="edge")
    return cv2.imencode(suffix, np.ascontiguousarray(face[..., ::-1]))[1].tobytes()


@pytest.fixture(scope="module")
def folder(faces, tmp_path_factory) -> Path:
    """Every kind of pickle; JPEG and PNG, 112x112 and 112x96 in turns."""
    root = tmp_path_factory.mktemp("sets")
    for k, (name, write) in enumerate(WRITERS.items()):
        images = [encoded(face, ".png" if k % 2 else ".jpg", wide=k % 3 == 0) for face in faces]
        (root / f"{name}.bin").write_bytes(write(images, LABELS))
    (root / "._lfw.bin").write_bytes(b"of macOS")
    (root / "train.rec").write_bytes(b"no set")
    return root


@pytest.fixture(scope="module")
def model(save_pixels, tmp_path_factory) -> Path:
    return save_pixels(tmp_path_factory.mktemp("model") / "pixels.keras")


def test_all_kinds_of_pickles_in_one_table(folder, model, faces, embedder, tmp_path, capsys):
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    assert main(["bins", str(model), str(folder), "--json", str(out), "--report", str(page)]) == 0
    values = json.loads(out.read_text())
    assert list(values["sets"]) == [*bin_sets.USUAL, "own"]
    plain, mirrored = (embedder(np.stack(part)) for part in (faces, [f[:, ::-1] for f in faces]))
    vectors = plain.astype(float) + mirrored
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sum(vectors[::2] * vectors[1::2], axis=1)
    genuine, impostor = scores[::2], scores[1::2]
    auc = np.mean(genuine[:, None] > impostor[None])
    for name, entry in values["sets"].items():
        assert entry["auc"] == pytest.approx(auc, abs=0.03), name  # JPEG moves a score a little
        assert len(entry["folds"]) == 10
        assert 0 <= entry["std_error"] < 0.2
    accuracies = [entry["accuracy"] for entry in values["sets"].values()]
    assert values["mean"] == pytest.approx(np.mean(accuracies))
    assert values["failures"] == {}
    text = capsys.readouterr().out
    assert f"{100 * values['mean']:.2f}" in text
    assert "published by others (their READMEs), not measured here" in text
    assert "99.83" in text  # buffalo_l on LFW
    html = page.read_text()
    assert html.count("<svg") == 8
    assert html.count("<h2>Quality in ") == 8
    assert html.count(">published<") == 12
    assert "http" not in html.replace("http://www.w3.org", "")


def test_a_set_alone_has_the_figures_of_bin(folder, model):
    together = bin_sets.evaluate_sets(model, [folder / "lfw.bin", folder / "own.bin"])
    alone = bins.evaluate(model, folder / "own.bin")
    assert list(together.sets) == ["lfw", "own"]
    assert together.sets["own"].headline.scores.tolist() == alone.headline.scores.tolist()
    assert together.sets["own"].std_error == alone.std_error


def test_sets_that_cannot_be_read_are_named_and_the_others_evaluated(
    folder, model, tmp_path, capsys
):
    whole = (folder / "lfw.bin").read_bytes()
    images = bins.read_bin(folder / "lfw.bin").images
    (tmp_path / "lfw.bin").write_bytes(whole)
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.bin").write_bytes(b"<html>not found</html>")
    (tmp_path / "one_class.bin").write_bytes(pickle.dumps((images[:8], [True] * 4)))
    (tmp_path / "no_image.bin").write_bytes(pickle.dumps(([b"x", *images[1:]], LABELS)))
    out = tmp_path / "out.json"
    sets = [str(tmp_path), str(tmp_path / "missing.bin")]
    assert main(["bins", str(model), *sets, "--json", str(out)]) == 1
    values = json.loads(out.read_text())
    assert list(values["sets"]) == ["lfw"]
    assert values["mean"] == values["sets"]["lfw"]["accuracy"]
    assert sorted(values["failures"]) == ["cut", "missing", "no_image", "one_class", "page"]
    captured = capsys.readouterr()
    assert "mean of 1 (of 6)" in captured.out
    said = " ".join(captured.err.split())
    for name, reason in (
        ("cut", "not a pickle, or a damaged one"),
        ("missing", "No such file"),
        ("page", "a web page"),
        ("one_class", "must hold genuine and impostor pairs"),
        ("no_image", "0: cannot be decoded"),
    ):
        assert f"{name} is not evaluated: " in said
        assert reason in said
    with pytest.raises(ValueError, match=r"cut\.bin is no \.bin set"):
        bin_sets.evaluate_sets(model, tmp_path / "cut.bin")


def test_nothing_that_could_be_read_is_no_result(model, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(b"")
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    argv = ["bins", str(model), str(tmp_path), "--json", str(out), "--report", str(page)]
    assert main(argv) == 1
    values = json.loads(out.read_text())
    assert (values["sets"], values["mean"]) == ({}, None)
    assert "Not evaluated:" in page.read_text()
    assert "a is not evaluated" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 3, 4, 11, 13])
def test_any_number_of_pairs(folder, model, tmp_path, count):
    whole = bins.read_bin(folder / "lfw.bin")
    path = tmp_path / "few.bin"
    path.write_bytes(pickle.dumps((whole.images[: 2 * count], LABELS[:count])))
    result = bin_sets.evaluate_sets(model, path, on_error="report")
    if count < 4:  # a fold without the other class outside
        assert "must leave both classes outside each fold" in result.failures["few"]
    else:
        assert len(result.sets["few"].fold_accuracies) == min(count, 10)
        assert f"in {min(count, 10)} folds" in result.sets["few"].protocol


def test_names_of_sets(tmp_path):
    for name in ("a/lfw.bin", "a/Mine.BIN", "b/lfw.bin"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = bin_sets.find_bins([tmp_path / "a", tmp_path / "a" / "lfw.bin"])
    assert list(found) == ["lfw", "Mine"]  # the file was given twice
    both = bin_sets.find_bins([tmp_path / "a", tmp_path / "b"])
    folders = [(tmp_path / name / "lfw").as_posix() for name in "ab"]
    assert list(both) == [*folders, "Mine"]
    with pytest.raises(FileNotFoundError, match=r"holds no \.bin file; there are some in a, b"):
        bin_sets.find_bins(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such folder or \.bin file"):
        bin_sets.find_bins(tmp_path / "nowhere")


def test_bad_input_of_the_command(model, tmp_path, capsys):
    assert main(["bins", str(model), str(tmp_path)]) == 2
    assert "holds no .bin file" in capsys.readouterr().err
    stored = StoredEmbeddings(None, ["0"], np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"are of one \.bin set"):
        bin_sets.evaluate_sets(stored, {"a": tmp_path})


def test_published_figures_are_those_of_the_sets_alone():
    assert len(published_sets(["agedb30"])) == len(published_sets(["agedb_30"])) > 5
    entries = published_sets(["CFP-FP", "other"])
    assert {name for entry in entries for name in entry["accuracy"]} == {"CFP-FP"}
    zoo = next(entry for entry in entries if entry["training_data"] == "MS1MV3")
    assert zoo["accuracy"] == {"CFP-FP": 0.9853}
    assert published_sets(["other"]) == []


def test_the_values_are_plain(folder, model):
    result = bin_sets.evaluate_sets(model, folder / "lfw.bin", flip=False)
    values = sets_to_dict(result)
    assert json.loads(json.dumps(values, allow_nan=False))["sets"]["lfw"]["flip"] == "none"
    assert "the image alone" in values["description"]
