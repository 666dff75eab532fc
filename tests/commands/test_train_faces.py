"""The faces that the train command is given: too few, damaged, of another size, verified too."""

from __future__ import annotations

import json
import shutil

import cv2
import pytest

from tests.commands.train_runs import run
from tf_sphereface.data import synthetic


def test_people_that_nothing_can_be_learnt_from(faces, tmp_path, capsys):
    """Before anything is read or written, in a dry run too."""
    everybody = tmp_path / "data" / "images"
    everybody.mkdir(parents=True)
    each = tmp_path / "each"
    for i, path in enumerate(sorted(faces.rglob("*.jpg"))):
        shutil.copy(path, everybody / f"{i}.jpg")
        (each / str(i)).mkdir(parents=True)
        shutil.copy(path, each / str(i))
    for options in (["--dry-run"], []):
        assert run(everybody.parent, tmp_path / "run", *options) == 2
        said = capsys.readouterr().err.replace("\n", " ")
        assert "images of 1 person (40 images, in the folder 'images')" in said
        assert run(each, tmp_path / "run", *options) == 2
        assert "one image of each of its 40 people" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    for i in range(10):
        shutil.copy(each / str(i) / next((each / str(i)).iterdir()).name, each / str(i) / "b.jpg")
    assert run(each, tmp_path / "run", "--dry-run") == 0
    assert "30 of the 40 people of" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.usefixtures("small_backbone")
def test_people_who_are_trained_on_and_verified_are_said(faces, tmp_path, capsys):
    held = synthetic.write_folder(tmp_path / "held", 22, 2, size=(56, 48), first_identity=2)
    assert run(faces, tmp_path / "run", "--epochs", "1", "--verify-images", str(held)) == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"2 people of {held} are trained on, by their names" in said


@pytest.mark.usefixtures("small_backbone")
def test_damaged_faces_are_named_and_skipped_or_fatal(tmp_path, capsys):
    root = tmp_path / "faces"
    synthetic.write_folder(root, 4, 10, size=(56, 48))
    victim = sorted(root.rglob("*.jpg"))[5]
    victim.write_bytes(victim.read_bytes()[:200])
    assert run(root, tmp_path / "run", "--epochs", "1") == 0
    assert victim.name in capsys.readouterr().err.replace("\n", "")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"] == 1
    assert run(root, tmp_path / "strict", "--epochs", "1", "--strict") == 2
    assert victim.name in capsys.readouterr().err.replace("\n", "")
    assert not (tmp_path / "strict" / "embedder.keras").exists()


@pytest.mark.usefixtures("small_backbone")
def test_faces_of_another_size_are_an_error_unless_resized(faces, tmp_path, capsys):
    name = next(path for path in sorted(faces.rglob("*.jpg")))
    big = tmp_path / "big"
    for i in range(20):
        (big / f"person {i % 2}").mkdir(parents=True, exist_ok=True)
        picture = cv2.resize(cv2.imread(str(name)), (96, 112))
        cv2.imwrite(str(big / f"person {i % 2}" / f"{i}.png"), picture)
    assert run(big, tmp_path / "a", "--epochs", "1") == 2
    assert "112x96" in capsys.readouterr().err
    assert run(big, tmp_path / "b", "--epochs", "1", "--resize") == 0
