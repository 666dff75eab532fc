"""The train command on small synthetic faces: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.commands.train_runs import SMALL, rows, run
from tf_sphereface.commands.train import main as command
from tf_sphereface.commands.train.main import main
from tf_sphereface.commands.train.summary import show_summary
from tf_sphereface.data import synthetic
from tf_sphereface.eval import bin_sets, bins
from tf_sphereface.training import resumable, run_callbacks
from tf_sphereface.training.checkpoint import checkpoint_files


def test_a_run_folder_is_complete(faces, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(run_callbacks, "CHECKPOINT_SECONDS", 0.0)  # two minutes are over at once,
    monkeypatch.setattr(run_callbacks, "CHECKPOINT_SHARE", 1e9)  # and saving takes no time
    assert run(faces, out, "--epochs", "2", "--json", str(tmp_path / "s.json")) == 0
    names = {"config.json", "environment.json", "log.csv", "checkpoints", "summary.json"}
    written = {"embedder.keras", "embedder.keras.card.md"}
    assert {path.name for path in out.iterdir()} == names | written
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"]["margin"], config["recipe"]["epochs"]) == (4, 2)
    assert "keras" in json.loads((out / "environment.json").read_text())
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    assert {"loss", "accuracy", "lambda", "effective_margin", "learning_rate"} <= set(rows(out)[0])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["faces"], summary["people"], summary["updates"]) == (40, 4, 4)
    assert summary == json.loads((tmp_path / "s.json").read_text())
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == [f"step-0000000{step}.npz" for step in (2, 3, 4)]
    embedder = sf.load_embedder(out / "embedder.keras")
    assert embedder(np.zeros((3, 56, 48, 3), np.uint8)).shape == (3, 16)
    metadata = embedder.metadata
    assert (metadata.loss, metadata.margin, metadata.flip) == ("a-softmax", 4, "concat")


def test_the_embedder_is_stock_keras_in_float32_without_dropout(faces, tmp_path):
    out = tmp_path / "run"
    options = ("--epochs", "1", "--dropout", "0.3", "--precision", "mixed_bfloat16")
    assert run(faces, out, *options) == 0
    keras.config.set_dtype_policy("float32")
    network = keras.models.load_model(out / "embedder.keras", compile=False)
    assert {layer.__module__.split(".")[0] for layer in network.layers} == {"keras"}
    assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in network.layers)


@pytest.mark.usefixtures("small_backbone")
def test_an_interrupt_finishes_the_step_and_resume_goes_on(faces, tmp_path, capsys, monkeypatch):
    """A real SIGINT in the third of eight updates; the run then ends as an uninterrupted one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken[bold]"
    options = ("--epochs", "4", "--dropout", "0.2", "--augment", "strong")
    assert run(faces, whole, *options) == 0

    begin = command.ShowProgress.on_train_batch_begin

    def interrupted(self, batch, logs=None):
        begin(self, batch, logs)
        if int(self.model.optimizer.iterations) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(command.ShowProgress, "on_train_batch_begin", interrupted)
        assert run(faces, broken, *options) == 130
    said = capsys.readouterr().err.replace("\n", " ")
    assert "stopped after step 3; the state of step 3 is kept" in said
    assert "--resume" in said
    names = [path.name for path in checkpoint_files(broken / "checkpoints")]
    assert names == ["step-00000003.npz", "step-00000002.npz"]
    assert not (broken / "embedder.keras").exists()
    assert run(faces, broken, *options, "--resume") == 0
    assert "resumed after step 3" in capsys.readouterr().err
    for before, after in zip(rows(whole), rows(broken), strict=True):
        del before["seconds"], after["seconds"]
        assert after == before
    first, second = (
        keras.models.load_model(out / "embedder.keras", compile=False) for out in (whole, broken)
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # a finished run says so, and is left alone, with and without its checkpoints
    before = (broken / "embedder.keras").stat().st_mtime_ns
    assert run(faces, broken, *options, "--resume") == 0
    shutil.rmtree(broken / "checkpoints")
    assert run(faces, broken, *options, "--resume") == 0
    said = capsys.readouterr().out
    assert said.count("this run is finished") == said.count("broken[bold]/summary.json") == 2
    assert (broken / "embedder.keras").stat().st_mtime_ns == before


@pytest.mark.usefixtures("small_backbone")
def test_a_sampled_run_in_float16_resumed_inside_an_epoch_logs_the_whole_epoch(tmp_path):
    data = ["--data", "synthetic", "--identities", "8", "--images", "4", "--batch-size", "4"]
    recipe = ["--preset", "quick", "--input-size", "28x24", "--embedding-dim", "8"]
    kept = ["--precision", "mixed_float16", "--checkpoint-every", "1", "--keep", "9"]
    options = [*data, *recipe, *kept, "--epochs", "1", "--sample-rate", "0.75", "--no-doctor"]
    whole = tmp_path / "whole"
    assert main([*options, "--out", str(whole)]) == 0
    assert "sampled_accuracy" in rows(whole)[0]
    broken, step = tmp_path / "broken", 6  # of 8
    shutil.copytree(whole, broken)
    for name in ("summary.json", "embedder.keras", "log.csv"):
        (broken / name).unlink()
    for path in checkpoint_files(broken / "checkpoints")[: 8 - step]:
        path.unlink()
    assert main([*options, "--out", str(broken), "--resume"]) == 0
    (before,), (after,) = rows(whole), rows(broken)
    del before["seconds"], after["seconds"]
    assert after == before
    assert list(after) == list(before)


@pytest.mark.usefixtures("small_backbone")
def test_a_run_that_failed_at_its_first_step_may_be_corrected(faces, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no step can be taken")

    out, other = tmp_path / "run", tmp_path / "other"
    with monkeypatch.context() as patched:
        patched.setattr(resumable, "train", fail)
        assert run(faces, out, "--epochs", "1", "--margin", "2") == 2
    assert "no step can be taken" in capsys.readouterr().err
    assert (out / "config.json").exists()
    (out / "diverged.json").write_text("{}")
    shutil.copytree(out, other)
    assert run(faces, out, "--epochs", "1") == 0
    assert run(faces, other, "--epochs", "1", "--resume") == 0
    said = capsys.readouterr().err
    assert said.count("no checkpoint yet: the run starts afresh") == 2
    for folder in (out, other):
        config = json.loads((folder / "config.json").read_text())
        assert config["recipe"]["margin"] == 4
        assert not (folder / "diverged.json").exists()
    assert run(faces, out, "--epochs", "1", "--margin", "3") == 2


@pytest.mark.usefixtures("small_backbone")
def test_a_run_is_not_overwritten_and_not_resumed_with_another_recipe(faces, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(faces, out, "--epochs", "1") == 0
    before = (out / "embedder.keras").read_bytes()
    assert run(faces, out, "--epochs", "1") == 2
    assert "--resume" in capsys.readouterr().err
    assert run(faces, out, "--epochs", "1", "--margin", "3", "--resume") == 2
    assert "margin was 4, now 3" in capsys.readouterr().err.replace("\n", " ")
    others = [*SMALL[:2], *SMALL[4:], "--precision", "float32"]
    assert main(["--data", f"{faces}/", "--out", str(out), *others, "--resume"]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"batch_size was {SMALL[3]}, now 64" in said
    assert "data was" not in said  # the same folder, with a slash
    assert "epochs was" not in said  # those of the run, where none are given
    assert (out / "embedder.keras").read_bytes() == before


@pytest.mark.usefixtures("small_backbone")
def test_a_finished_run_goes_on_to_more_epochs(faces, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(faces, out, "--epochs", "1", "--class-weights", "balanced") == 0
    assert "each person weighs alike" in capsys.readouterr().err
    before = (out / "embedder.keras").read_bytes()
    same = ("--resume", "--class-weights", "balanced")
    assert run(faces, out, *same) == 0  # its own number of epochs
    assert "this run is finished" in capsys.readouterr().out
    assert run(faces, out, *same, "--epochs", "3", "--learning-rate", "0.2") == 2
    assert "learning_rate was 0.05, now 0.2" in capsys.readouterr().err.replace("\n", " ")
    assert run(faces, out, *same, "--epochs", "2") == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "resumed after step 2" in said
    assert "the run of 1 epoch goes on to 2: from update 3 on" in said
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    assert (out / "embedder.keras").read_bytes() != before
    summary, config = (json.loads((out / f"{n}.json").read_text()) for n in ("summary", "config"))
    assert (summary["epochs"], summary["updates"]) == (2, 4)
    assert config["recipe"]["class_weights"] == "balanced"
    assert config["recipe"]["epochs"] == 2
    # as if it had been killed before its second end: the first one's summary is no end
    (out / "summary.json").write_text(json.dumps({**summary, "epochs": 1}))
    assert run(faces, out, *same, "--epochs", "2") == 0
    assert json.loads((out / "summary.json").read_text())["epochs"] == 2
    assert run(faces, out, *same, "--epochs", "1") == 2
    assert "has done 2 epochs cannot go on to fewer" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.usefixtures("small_backbone")
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(faces, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    real = np.savez

    def full(handle, **arrays):
        if int(arrays["optimizer/0"]) in (3, 4):
            handle.write(b"PK what fitted")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert run(faces, out, "--epochs", "3", "--checkpoint-every", "1") == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "no checkpoint at step 3: [Errno 28] No space left on device" in said
    assert "the last good one is of step 2" in said
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == [f"step-0000000{step}.npz" for step in (2, 5, 6)]


@pytest.mark.usefixtures("small_backbone")
def test_damaged_checkpoints_are_passed_over(faces, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(faces, out, "--epochs", "2") == 0
    (out / "summary.json").unlink()  # as if it had been killed before the end
    newest, _ = checkpoint_files(out / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-2000])
    later = newest.with_name("step-00000009.npz")
    later.write_bytes(b"PK")
    assert run(faces, out, "--epochs", "2", "--keep", "1", "--resume") == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"{newest.name} is not a whole checkpoint" in said
    assert "resumed after step 2" in said
    assert checkpoint_files(out / "checkpoints") == [later, newest]  # the damaged one counts not

    (out / "summary.json").unlink()
    for path in (newest, later):
        path.write_bytes(b"PK")
    assert run(faces, out, "--epochs", "2", "--resume") == 2
    assert "none of the 2 checkpoints" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.usefixtures("small_backbone")
def test_a_run_is_not_resumed_with_other_faces(tmp_path, capsys):
    root, out = tmp_path / "faces", tmp_path / "run"
    synthetic.write_folder(root, 4, 10, size=(56, 48))
    assert run(root, out, "--epochs", "1") == 0
    (out / "summary.json").unlink()
    shutil.copytree(root, tmp_path / "copy")  # other times and places
    shutil.rmtree(root)
    shutil.move(tmp_path / "copy", root)
    assert run(root, out, "--epochs", "1", "--resume") == 0
    (out / "summary.json").unlink()
    first = min(path for path in root.iterdir() if path.is_dir())
    renamed = first.rename(root / "zoe")  # takes the last centre, and all others the one before
    capsys.readouterr()
    assert run(root, out, "--epochs", "1", "--resume") == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "as many people and faces, of other names or in another order" in said
    renamed.rename(first)
    sorted(root.rglob("*.jpg"))[0].unlink()
    assert run(root, out, "--epochs", "1", "--resume") == 2
    assert "the run had 40 faces, now 39" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.usefixtures("small_backbone")
def test_verification_chooses_the_best_embedder(faces, tmp_path):
    held = tmp_path / "held"
    synthetic.write_folder(held, 22, 3, size=(56, 48), first_identity=100)
    out = tmp_path / "run"
    options = ("--epochs", "3", "--keep", "1", "--verify-images", str(held))
    assert run(faces, out, *options) == 0
    figures = [float(row["verification_accuracy"]) for row in rows(out)]
    best = figures.index(max(figures)) + 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"]["epoch"] == best
    assert summary["best"]["verification_accuracy"] == max(figures)
    result = sf.eval.folder.evaluate(out / "best.keras", held)
    assert result.headline.accuracy == pytest.approx(max(figures))
    kept = {path.name for path in (out / "checkpoints").iterdir()}
    assert kept == {f"step-0000000{step}.npz" for step in {2 * best, 6}}


@pytest.mark.usefixtures("small_backbone")
def test_bin_sets_are_verified_every_second_epoch_also_when_resumed(faces, tmp_path, capsys):
    held = synthetic.verification_set(12, pairs_per_fold=12, folds=2, first_identity=100)
    order = np.stack([held.left, held.right], axis=1).ravel()
    images = [cv2.imencode(".png", held.images[i][..., ::-1])[1].tobytes() for i in order]
    sets, out = tmp_path / "sets", tmp_path / "run"
    sets.mkdir()
    for name, count in (("lfw", 12), ("own", 24)):
        bins.write_bin(sets / f"{name}.bin", images[: 2 * count], held.is_same[:count])
    options = ["--verify-bins", str(sets), "--verify-every", "2", "--verify-max-pairs", "16"]
    assert run(faces, out, "--epochs", "3", *options) == 0
    said = capsys.readouterr()
    assert "verification_own_accuracy" in said.err
    assert "nan" not in said.err
    log = rows(out)
    assert [math.isnan(float(row["verification_lfw_accuracy"])) for row in log] == [0, 0, 0]
    assert {"accuracy", "verification_accuracy", "verification_own_std_error"} <= set(log[0])
    best = max(float(row["verification_accuracy"]) for row in log)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"]["verification_accuracy"] == best
    assert bin_sets.evaluate_sets(out / "best.keras", bin_sets.read_sets(sets, 16)).accuracy == best
    (sets / "own.bin").unlink()
    assert run(faces, out, "--epochs", "5", "--resume", *options) == 0
    assert "was verified on other sets" in " ".join(capsys.readouterr().err.split())
    assert [math.isnan(float(row["verification_accuracy"])) for row in rows(out)[3:]] == [0, 0]


def test_the_doctor_stops_a_diverging_run_and_names_files_and_layer(faces, tmp_path, capsys):
    out = tmp_path / "run"
    options = ("--epochs", "8", "--learning-rate", "1e20")
    assert run(faces, out, *options) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    found = json.loads((out / "diverged.json").read_text())
    assert f"the loss became nan at step {found['step']}: layer '{found['layer']}'" in said
    assert f"error: training stopped at step {found['step']}" in said
    assert len(found["files"]) == 16
    assert all(Path(name).is_file() for name in found["files"])
    assert not (out / "embedder.keras").exists()
    assert run(faces, tmp_path / "alone", *options, "--no-doctor") == 2
    assert "the loss became nan in epoch" in capsys.readouterr().err.replace("\n", " ")


def test_the_share_of_the_run_after_which_lambda_stops(faces, tmp_path):
    report = tmp_path / "plan.json"
    options = ("--epochs", "40", "--dry-run", "--json", str(report), "--annealing", "fit")
    assert run(faces, tmp_path / "run", *options, "--annealing-reach", "0.75") == 0
    rows = json.loads(report.read_text())["schedule"]
    assert next(row["step"] for row in rows if row["lambda"] == 5) == 60  # of 80


def test_the_summary_shows_brackets_as_they_are(capsys):
    show_summary({"embedder": "runs/[bold]a[/]/x"})
    assert "runs/[bold]a[/]/x" in capsys.readouterr().out


@pytest.mark.usefixtures("small_backbone")
def test_the_baseline_trains_and_says_what_it_is(faces, tmp_path):
    assert run(faces, tmp_path / "run", "--epochs", "1", "--loss", "softmax") == 0
    metadata = sf.load_embedder(tmp_path / "run" / "embedder.keras").metadata
    assert (metadata.loss, metadata.margin) == ("softmax", None)
    assert "lambda" not in rows(tmp_path / "run")[0]


@pytest.mark.usefixtures("small_backbone")
@pytest.mark.parametrize(
    ("options", "margin", "words"),
    [
        (["--loss", "sphereface2", "--margin", "0.3"], 0.3, "SphereFace2 with margin 0.3"),
        (["--loss", "arcface", "--scale", "16"], 0.3, "scale 16"),
        (["--gradient", "caffe"], 4, "the released Caffe layer's gradient"),
    ],
)
def test_the_run_says_which_margin_it_really_used(faces, tmp_path, capsys, options, margin, words):
    out = tmp_path / "run"
    assert run(faces, out, "--epochs", "1", *options) == 0
    assert words in capsys.readouterr().err.replace("\n", " ")
    summary = json.loads((out / "summary.json").read_text())
    config = json.loads((out / "config.json").read_text())
    metadata = sf.load_embedder(out / "embedder.keras").metadata
    assert summary["margin"] == config["recipe"]["margin"] == metadata.margin == margin
    assert summary["scale"] == config["recipe"]["scale"]
    assert words in summary["loss in words"]
    assert words in metadata.extra["loss"]
