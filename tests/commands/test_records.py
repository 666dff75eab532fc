"""RecordIO files in every command that takes faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.rec_files import content, frame, insightface, picture, write, write_idx
from tf_sphereface.alignment import TEMPLATES
from tf_sphereface.commands.align.main import main as align
from tf_sphereface.commands.data.main import main
from tf_sphereface.commands.train.main import main as train


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be written to the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Four people with ten images each; record 7 is no picture, and the last range is cut off."""
    records = insightface([10, 10, 10, 10], suffix=".jpg")
    records[7] = frame(content((0.0, 0.0), b"no picture"))
    path = tmp_path / "set" / "train.rec"
    path.parent.mkdir()
    write_idx(path.with_suffix(".idx"), write(path, records))
    path.write_bytes(path.read_bytes()[:-8])
    return path


def words(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return " ".join(out.split()), " ".join(err.split())


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_info_and_check(rec, tmp_path, capsys):
    report = tmp_path / "report.json"
    for source in (rec, rec.parent):
        assert main(["info", str(source), "--json", str(report)]) == 0
        text, _ = words(capsys)
        assert "40 faces of 4 people, from 10 to 10 each" in text
        assert "with a record that counts, with train.idx" in text
        found = read(report)
        assert (found["kind"], found["people"], found["faces"]) == ("recordio", 4, 40)
    assert main(["check", str(rec), "--json", str(report)]) == 1
    error = words(capsys)[1]
    assert "damaged files: 0; damaged records: 2 of 41" in error
    assert "record 7 at offset" in error
    assert "the file ends after" in error
    assert len(read(report)["records"]) == 2
    assert main(["info", str(rec), "--json", str(report)]) == 0
    assert read(report)["image_size"] == [56, 48]
    assert read(report)["faces"] == 39
    assert len(read(report)["damaged"]) == 2

    write(rec, insightface([3, 3], suffix=".jpg"))
    rec.with_suffix(".idx").unlink()
    assert main(["check", str(rec), "--json", str(report)]) == 0
    assert "6 records, every image can be decoded" in words(capsys)[0]
    rec.write_bytes(b"<html>no such file</html>")
    for command in ("info", "check"):
        assert main([command, str(rec)]) == 2
        assert f"{rec} is a web page" in words(capsys)[1]


def test_extract_pack_and_back(rec, tmp_path, capsys):
    faces, report = tmp_path / "faces", tmp_path / "report.json"
    assert main(["extract", str(rec), str(tmp_path / "strict"), "--strict"]) == 2
    assert "record 44 at offset" in words(capsys)[1]
    assert main(["extract", str(rec), str(faces), "--json", str(report)]) == 0
    assert "39 faces of 4 people; images that were there: 0" in words(capsys)[0]
    assert (faces / "2" / "00000025.jpg").read_bytes() == picture(25, suffix=".jpg")
    assert main(["to-rec", str(faces), str(tmp_path / "ours"), "--json", str(report)]) == 0
    assert "39 faces of 4 people" in words(capsys)[0]
    assert main(["check", str(tmp_path / "ours")]) == 0
    assert main(["to-rec", str(faces), str(tmp_path / "ours")]) == 2
    assert "there already" in words(capsys)[1]
    assert main(["pack", str(rec), str(tmp_path / "packed"), "--json", str(report)]) == 0
    text, _ = words(capsys)
    assert "0/00000007: truncated or not an image" in text
    assert "record 44 at offset" in text
    assert read(report)["images"] == 39
    assert main(["extract", str(faces), str(tmp_path / "other")]) == 2
    assert "a RecordIO file (.rec) is expected" in words(capsys)[1]


@pytest.mark.usefixtures("small_backbone")
def test_train_on_a_rec_is_training_on_its_folder(rec, tmp_path, capsys):
    assert main(["extract", str(rec), str(tmp_path / "faces")]) == 0
    options = ["--preset", "quick", "--batch-size", "13", "--embedding-dim", "16"]
    options += ["--epochs", "1", "--precision", "float32"]
    capsys.readouterr()
    command = ["--data", str(rec), "--out", str(tmp_path / "strict"), *options, "--strict"]
    assert train(command) == 2
    assert "record 7 at offset" in words(capsys)[1]
    rows = []
    for source in (tmp_path / "faces", rec.parent):
        run = tmp_path / f"run-{len(rows)}"
        report = tmp_path / "report.json"
        line = ["--data", str(source), "--out", str(run), *options, "--json", str(report)]
        assert train(line) == 0
        rows.append((run / "log.csv").read_text().splitlines()[1].split(",")[:-1])  # no seconds
    assert rows[0] == rows[1]
    error = words(capsys)[1]
    assert "train.rec, record 7 at offset" in error
    assert (read(report)["people"], read(report)["faces"]) == (4, 39)


def test_audit_takes_a_rec(rec, tmp_path):
    assert main(["extract", str(rec), str(tmp_path / "faces")]) == 0
    out = tmp_path / "audit"
    line = ["audit", str(rec), str(tmp_path / "faces"), "--out", str(out), "--hash-bits", "0"]
    assert main(line) == 0
    assert len(read(out / "audit.json")["identities"]) == 4
    assert "0\t0: name" in (out / "exclude.txt").read_text()


def test_align_takes_a_rec_by_landmarks(tmp_path, capsys):
    path = tmp_path / "photos.rec"
    write(path, [frame(content(float(i % 2), picture(i, (224, 192)))) for i in range(4)])
    lines = []
    for number in range(4):
        points = 2 * TEMPLATES[112, 96]
        values = "\t".join(f"{value:.3f}" for value in np.ravel(points))
        lines.append(f"{number % 2}/{number:08d}.png\t{values}")
    landmarks = tmp_path / "landmarks.tsv"
    landmarks.write_text("\n".join(lines) + "\n")
    out = tmp_path / "aligned"
    assert align([str(path), str(out), "--landmarks", str(landmarks)]) == 0
    assert "4 faces of 112x96 written" in words(capsys)[0]
    assert sorted(p.name for p in out.glob("*/*.png"))[-1] == "00000003.png"
    assert not (tmp_path / ".aligned.photos").exists()
