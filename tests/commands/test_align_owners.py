"""`tf_sphereface-align`: every face stays with the photograph that it is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands.albums import crops, photo, run, save
from tf_sphereface.alignment.align import read_landmarks
from tf_sphereface.alignment.images import read_image
from tf_sphereface.commands.align import main


def test_files_from_elsewhere_are_not_replaced(album, capsys):
    save(album / "dst/A/one.png", np.zeros((9, 9, 3), np.uint8))
    assert run(album) == 1
    assert "from elsewhere; --overwrite replaces it" in " ".join(capsys.readouterr().err.split())
    assert read_image(album / "dst/A/one.png").shape == (9, 9, 3)
    run(album, "--overwrite")
    assert read_image(album / "dst/A/one.png").shape == (112, 96, 3)


def test_files_from_elsewhere_stay_however_often_it_runs(album, capsys):
    """The first run leaves a line about the photograph in the journal, but claims no file."""
    save(album / "dst/A/one.png", np.zeros((9, 9, 3), np.uint8))
    for _ in range(3):
        assert run(album) == 1
        assert "from elsewhere" in " ".join(capsys.readouterr().err.split())
        assert read_image(album / "dst/A/one.png").shape == (9, 9, 3)


def test_one_name_from_two_folders(tmp_path, capsys):
    save(tmp_path / "one/a.png", photo(3, at=[(110, 60)]))
    save(tmp_path / "two/a.png", photo(5, at=[(100, 50)]))
    dst = tmp_path / "dst"
    assert main.main([str(tmp_path / "one/a.png"), str(dst)]) == 0
    files = {path.name: path.read_bytes() for path in dst.iterdir() if path.name[0] != "."}
    assert sorted(files) == ["a.png", "a.png.landmarks.tsv", "a.png.report.tsv"]
    for _ in range(2):
        assert main.main([str(tmp_path / "two/a.png"), str(dst)]) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert f"is there already, from {tmp_path}/one/a.png; --overwrite replaces it" in message
        assert {name: (dst / name).read_bytes() for name in files} == files
    assert main.main([str(tmp_path / "two/a.png"), str(dst), "--overwrite"]) == 0
    assert (dst / "a.png").read_bytes() != files["a.png"]
    assert main.main([str(tmp_path / "one/a.png"), str(dst)]) == 1  # not taken for its own


def test_one_folder_of_faces_for_each_folder_of_photographs(tmp_path, capsys):
    save(tmp_path / "src/a.png", photo(3, at=[(110, 60)]))
    save(tmp_path / "other/b.png", photo(5, at=[(100, 50)]))
    assert run(tmp_path) == 0
    before = (tmp_path / "dst/landmarks.tsv").read_text()
    other = [str(tmp_path / "other"), str(tmp_path / "dst")]
    assert main.main(other) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "DST must be a folder of its own for each SRC" in message
    assert f"those of {tmp_path}/src, and --overwrite replaces them" in message
    assert (tmp_path / "dst/landmarks.tsv").read_text() == before
    assert main.main([str(tmp_path / "other/b.png"), str(tmp_path / "dst")]) == 0  # own lists
    assert list(crops(tmp_path)) == ["a.png", "b.png"]
    assert run(tmp_path) == 0
    assert main.main([*other, "--overwrite"]) == 0
    assert list(read_landmarks(tmp_path / "dst/landmarks.tsv")) == ["b.png"]


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """IMG.png with two faces, whose crops may be called as IMG_1.png, which has one."""
    save(tmp_path / "src/IMG.png", photo(3, 5, at=[(110, 60), (215, 120)]))
    save(tmp_path / "src/IMG_1.png", photo(5, at=[(100, 50)]))
    return tmp_path


def test_another_photographs_crop_is_not_removed(numbered, calls):
    run(numbered, "--select", "all", out="fresh")
    run(numbered, out="center")
    calls.clear()
    for jobs in ("1", "2"):
        assert run(numbered, "--jobs", jobs) == 0
        assert crops(numbered) == crops(numbered, "center")
        assert run(numbered, "--jobs", jobs, "--select", "all") == 0
        assert list(crops(numbered)) == ["IMG_1.png", "IMG_1_1.png", "IMG_2.png"]
        assert crops(numbered) == crops(numbered, "fresh")
    assert len(calls) == 2


def test_stopped_between_two_selections(numbered):
    """What the stopped run took over is not taken for what was there before."""
    run(numbered, out="center")
    run(numbered, "--select", "all", out="fresh")
    run(numbered, "--jobs", "1")
    journal = numbered / "dst/.align.jsonl"
    run(numbered, "--jobs", "1", "--select", "all")
    lines = journal.read_text().splitlines()
    stop = next(
        i for i, line in enumerate(lines) if '"claims": "IMG_1.png"' in line and "1_1" in line
    )
    removed = crops(numbered, "center")["IMG.png"]
    for select, expected in (("center", "center"), ("all", "fresh")):
        journal.write_text("\n".join(lines[:stop]) + "\n")  # IMG.png is done, IMG_1.png is not
        for name in crops(numbered):
            (numbered / "dst" / name).unlink()
        (numbered / "dst/IMG.png").write_bytes(removed)
        for name in ("IMG_1.png", "IMG_2.png"):
            (numbered / "dst" / name).write_bytes(crops(numbered, "fresh")[name])
        assert run(numbered, "--select", select) == 0
        assert crops(numbered) == crops(numbered, expected)


def test_one_photograph_does_not_replace_anothers_face(numbered, capsys):
    assert run(numbered) == 0
    before = crops(numbered)
    arguments = [str(numbered / "src/IMG.png"), str(numbered / "dst"), "--select", "all"]
    assert main.main(arguments) == 1
    assert "IMG_1.png is there already, from" in " ".join(capsys.readouterr().err.split())
    assert crops(numbered) == before
