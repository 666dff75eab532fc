"""`tf_sphereface-train --teacher`."""

from __future__ import annotations

import csv
import json
import shutil

import cv2
import pytest

import tf_sphereface as sf
from tests.embedder.small import make_network, write_onnx
from tf_sphereface import data, training
from tf_sphereface.commands.train import main as train

pytestmark = pytest.mark.usefixtures("small_backbone")

SIZE = (28, 24)
SHORT = ["--epochs", "1", "--batch-size", "8", "--precision", "float32", "--input-size", "28x24"]
SHORT += ["--embedding-dim", "6", "--no-doctor"]


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / "teacher.keras"
    sf.embedder.save_embedder(make_network(size=SIZE), path)
    return path


def run(*arguments) -> int:
    return train.main([str(argument) for argument in arguments])


def logged(out) -> list[dict[str, str]]:
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_flat_folder_a_cache_and_resume(tmp_path, teacher, capsys):
    images, _ = data.synthetic.training_set(2, 8, size=SIZE)
    flat, kept, out = tmp_path / "flat", tmp_path / "kept", tmp_path / "run"
    flat.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(flat / f"{number:02d}.png"), image[..., ::-1])
    line = ["--data", flat, "--out", out, "--cache", kept, *SHORT]
    assert run(*line, "--teacher", teacher, "--dry-run") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "its embeddings of 16 faces and their mirror images: about" in told
    assert not out.exists()
    assert not kept.exists()
    assert run(*line, "--teacher", teacher, "--distill-weight", 0.5) == 2
    assert "one folder per identity" in capsys.readouterr().err
    assert run(*line, "--teacher", teacher, "--cache", "none") == 0
    told = capsys.readouterr()
    assert "they have no labels" in told.err
    assert "16 faces, no labels; 2 steps an epoch" in told.err
    assert "1 people" not in told.err + told.out
    assert len(list(kept.glob("*.npy"))) == 1
    assert logged(out)[0]["accuracy"] == "nan"
    assert json.loads((out / "summary.json").read_text())["final"]["accuracy"] is None
    card = (out / "embedder.keras.card.md").read_text()
    assert "teacher_cosine" in card
    assert "nan" not in card
    teacher.unlink()
    assert run(*line, "--resume", "--epochs", 2) == 0
    rows = logged(out)
    assert float(rows[1]["teacher_cosine"]) > float(rows[0]["teacher_cosine"])
    assert json.loads((out / "config.json").read_text())["recipe"]["distill_weight"] == 1
    embedder = sf.load_embedder(out / "embedder.keras")
    assert embedder.embedding_dim == 6
    metadata = embedder.metadata
    assert metadata.extra["distilled_from"]["model"] == "teacher.keras"
    assert (metadata.loss, metadata.margin) == ("distillation", None)
    assert metadata.extra["loss"] == "1 - cosine to the teacher; no label is used"
    assert "- teacher: teacher.keras (SHA-256" in (out / "embedder.keras.card.md").read_text()
    assert run(*line[:4], *SHORT, "--resume", "--epochs", 3) == 2  # without --cache
    assert "name the teacher again" in capsys.readouterr().err


def test_labels_and_a_network_to_start_from(tmp_path, teacher, capsys):
    people = data.synthetic.write_folder(tmp_path / "faces", 8, 4, size=SIZE)
    line = ["--data", people, "--from", teacher, "--teacher", teacher, "--out", tmp_path / "run"]
    line += [*SHORT[:4], "--freeze-epochs", 0, "--no-doctor"]
    assert run(*line) == 0
    told = capsys.readouterr().err
    assert "the teacher verifies the training people at" in told
    assert "0.5 of 1 - cosine to the teacher, 0.5 of CosFace with margin 0.2" in told
    assert 0 <= float(logged(tmp_path / "run")[0]["accuracy"]) <= 1
    stored = training.RunFolder(tmp_path / "run")
    for path in (stored.log, stored.embedder, stored.summary):
        path.unlink()
    shutil.rmtree(stored.checkpoints)  # as where it was killed in its first steps
    assert run(*line[:4], *line[6:], "--resume") == 0
    assert "teacher_cosine" in logged(tmp_path / "run")[0]
    inside = tmp_path / "run" / "embedder.keras"
    assert run(*line[:4], "--teacher", inside, *line[6:], "--resume") == 2
    assert "a run cannot learn from itself" in capsys.readouterr().err


def test_a_frozen_body_that_leaves_nothing_to_learn(tmp_path, teacher, capsys):
    people = data.synthetic.write_folder(tmp_path / "faces", 8, 4, size=SIZE)
    line = ["--data", people, "--from", teacher, "--teacher", teacher, "--distill-weight", 1]
    line += [*SHORT[:4], "--epochs", 2, "--no-doctor", "--out"]
    assert run(*line, tmp_path / "default") == 0
    config = json.loads((tmp_path / "default" / "config.json").read_text())
    assert config["recipe"]["freeze_epochs"] == 0
    assert "nothing learns" not in capsys.readouterr().err
    assert run(*line, tmp_path / "resumed", "--resume") == 0  # as where nothing was kept before
    config = json.loads((tmp_path / "resumed" / "config.json").read_text())
    assert config["recipe"]["freeze_epochs"] == 0
    assert run(*line, tmp_path / "asked", "--freeze-epochs", 1) == 0
    assert "nothing learns while the body is frozen" in " ".join(capsys.readouterr().err.split())
    assert run(*line, tmp_path / "asked", "--resume", "--epochs", 3) == 0  # keeps its own


def test_a_run_that_begins_under_resume_learns_from_its_teacher(tmp_path, teacher):
    people = data.synthetic.write_folder(tmp_path / "faces", 8, 4, size=SIZE)
    line = ["--data", people, "--from", teacher, "--teacher", teacher, *SHORT[:4], "--no-doctor"]
    assert run(*line, "--resume", "--out", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["distill_weight"] == 0.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--distill-weight", "0.5"], "--distill-weight needs --teacher"),
        (["--cache", "somewhere"], "--cache DIR is the folder of a teacher's embeddings"),
        (["--teacher", "{teacher}", "--distill-weight", "1.5"], "a number from 0, the labels"),
        (["--teacher", "{teacher}", "--distill-weight", "0"], "learns nothing from the teacher"),
        (["--teacher-layout", "nchw"], "--teacher-layout needs --teacher"),
        (["--teacher", "no-such.keras"], "no-such.keras"),
        (["--teacher", "{teacher}", "--input-size", "40x24"], "neither scaling nor the columns"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, teacher, capsys, options, text):
    given = [option.format(teacher=teacher) for option in options]
    out = tmp_path / "run"
    line = ["--data", "synthetic", "--identities", 3, "--images", 4, "--out", out, *SHORT]
    assert run(*line, *given) == 2
    assert text in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_file_without_metadata_is_fed_as_the_options_say(tmp_path, capsys):
    path, out = tmp_path / "teacher.onnx", tmp_path / "run"
    write_onnx(path)
    line = ["--data", "synthetic", "--identities", 3, "--images", 4, "--out", out, *SHORT]
    line += ["--input-size", "32x24", "--teacher", path, "--dry-run"]
    assert run(*line) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "a guess" in told
    assert "said by --teacher-channel-order" in told
    fed = ["--teacher-channel-order", "bgr", "--teacher-pixel-mean", "104,117,123"]
    assert run(*line, *fed, "--teacher-pixel-scale", 1) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "which takes 16x12 BGR" in told
