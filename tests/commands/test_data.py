"""`tf_sphereface-data` as a user runs it, and is interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.fork_server import ForkedProcess
from tf_sphereface.commands.data.main import main
from tf_sphereface.commands.train.main import main as train
from tf_sphereface.data import synthetic


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty people with 40 faces each, one of them damaged."""
    root = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 20, 40, size=(56, 48))
    (root / "Person_000003" / "0000.jpg").write_bytes(b"")
    return root


def content(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")
    }


def words(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return " ".join(out.split()), " ".join(err.split())


def test_pack_check_info(faces, tmp_path, capsys):
    out, report = str(tmp_path / "packed"), tmp_path / "report.json"
    assert main(["pack", str(faces), out, "--shards", "4", "--json", str(report)]) == 0
    text, _ = words(capsys)
    assert "800 faces of 20 people in 4 shards" in text
    assert "shards that were there: 0; damaged files left out: 1" in text
    assert "Person_000003/0000.jpg: empty file" in text
    found = json.loads(report.read_text())
    assert (found["images"], found["classes"], found["shards"]) == (800, 20, 4)
    assert found["skipped"] == {"Person_000003/0000.jpg": "empty file"}

    assert main(["pack", str(faces), out, "--shards", "4"]) == 0
    assert "shards that were there: 4" in words(capsys)[0]

    assert main(["info", out, "--json", str(report)]) == 0
    text, _ = words(capsys)
    assert "800 faces of 20 people, from 40 to 40 each" in text
    assert "56x48; 4 shards" in text
    found = json.loads(report.read_text())
    assert found["image_size"] == [56, 48]
    assert (found["kind"], found["people"], found["faces"]) == ("pack", 20, 800)

    assert main(["check", out, "--json", str(report)]) == 0
    assert "800 records, every checksum holds" in words(capsys)[0]
    shard = tmp_path / "packed" / "faces-00002-of-00004.tfrecord"
    spoilt = bytearray(shard.read_bytes())
    spoilt[1000] ^= 1
    shard.write_bytes(spoilt)
    assert main(["check", out, "--json", str(report)]) == 1
    _, error = words(capsys)
    assert "damaged files: 1; damaged records: 1 of 800" in error
    assert "record 0 of faces-00002-of-00004.tfrecord: its checksum differs" in error
    assert len(json.loads(report.read_text())["records"]) == 1
    assert main(["pack", str(faces), out, "--shards", "4"]) == 0
    assert main(["check", out]) == 0


def pack(arguments: list[str]) -> None:
    """Pack in a process of its own."""
    sys.exit(main(["pack", *arguments]))


def test_a_killed_pack_goes_on_to_the_same_bytes(faces, tmp_path):
    options = ["--shards", "100", "--jobs", "1"]
    assert main(["pack", str(faces), str(tmp_path / "whole"), *options]) == 0
    out = tmp_path / "out"
    process = ForkedProcess(pack, [str(faces), str(out), *options])
    shards = 0
    while shards < 7 and process.is_alive():
        time.sleep(0.001)
        shards = len(list(out.glob("faces-*"))) if out.is_dir() else 0
    process.send_signal(signal.SIGKILL)
    assert process.finish()[0] == -signal.SIGKILL
    assert shards >= 7
    assert not (out / "manifest.json").exists()
    report = tmp_path / "report.json"
    assert main(["pack", str(faces), str(out), *options, "--json", str(report)]) == 0
    assert 6 <= json.loads(report.read_text())["kept_shards"] < 100
    assert content(out) == content(tmp_path / "whole")
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_views_are_faces_to_train_on(faces, tmp_path, capsys):
    out, report = tmp_path / "views", tmp_path / "report.json"
    options = ["--count", "2", "--size", "56x48", "--resize", "--json", str(report)]
    assert main(["views", str(faces), str(out), *options]) == 0
    said, _ = words(capsys)
    assert "1,600 pictures, 2 of each of 800 faces; damaged files left out: 1" in said
    assert "Person_000003/0000.jpg" in said
    assert json.loads(report.read_text()) == {"path": str(out), "faces": 800, "images": 1600}
    assert main(["info", str(out)]) == 0
    assert "1,600 image files of 20 people" in words(capsys)[0]
    assert main(["views", str(faces), str(out), *options[:2], "--size", "28x24", "--resize"]) == 2
    assert "a folder that the same call has begun" in words(capsys)[1]


def test_errors_are_one_message(faces, tmp_path, capsys):
    out = str(tmp_path / "packed")
    assert main(["pack", str(faces), out, "--strict"]) == 2
    assert "Person_000003/0000.jpg cannot be decoded: empty file" in words(capsys)[1]
    assert main(["check", out]) == 2
    assert "is not packed to the end" in words(capsys)[1]
    assert main(["pack", str(faces), out, "--seed", "1"]) == 2
    assert "seed was 0, now 1" in words(capsys)[1]
    assert main(["info", str(faces), "--json", str(tmp_path / "info.json")]) == 0
    found = json.loads((tmp_path / "info.json").read_text())
    assert (found["kind"], found["people"], found["faces"]) == ("folder", 20, 801)
    text = tmp_path / "notes.txt"
    text.write_text("no faces")
    for command in ("info", "check", "pack"):
        assert main([command, str(text), *([out] if command == "pack" else [])]) == 2
        assert str(text) in words(capsys)[1]
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty")]) == 2
    assert main(["check", str(faces)]) == 2
    assert "must be a packed folder" in words(capsys)[1]
    with pytest.raises(SystemExit) as stopped:
        main(["pack", str(faces), out, "--resize", "big"])
    assert stopped.value.code == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["pack"], ["check"], ["info"], ["extract"], ["to-rec"]])
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text if arguments else "examples:" in text


@pytest.mark.usefixtures("small_backbone")
def test_train_takes_a_packed_folder(faces, tmp_path, capsys):
    """A record of the pack is lost, the same face of the folder too: the runs are the same."""
    folder, out = tmp_path / "faces", tmp_path / "packed"
    for number in range(5):  # 200 faces
        shutil.copytree(faces / f"Person_{number:06d}", folder / f"Person_{number:06d}")
    assert main(["pack", str(folder), str(out), "--shards", "3"]) == 0
    shard = out / "faces-00001-of-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-200])
    report = tmp_path / "report.json"
    assert main(["check", str(out), "--json", str(report)]) == 1
    (lost,) = json.loads(report.read_text())["records"]
    (folder / lost).write_bytes(b"")

    options = ["--preset", "quick", "--batch-size", "50", "--embedding-dim", "16"]
    options += ["--epochs", "1", "--precision", "float32"]
    command = ["--data", str(out), "--out", str(tmp_path / "strict"), *options, "--strict"]
    capsys.readouterr()
    assert train(command) == 2
    assert f"1 records are lost, first record 66 of {shard.name} ({lost})" in words(capsys)[1]
    rows = []
    for name in (folder, out):
        run = tmp_path / f"run-{len(rows)}"
        assert train(["--data", str(name), "--out", str(run), *options]) == 0
        assert "skipped" in words(capsys)[1]
        rows.append((run / "log.csv").read_text().splitlines()[1].split(",")[:-1])  # no seconds
    assert rows[0] == rows[1]
