"""Schedules, optimizers, averages and hooks of the training command."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.commands.train_runs import rows, run

HOOKS = """
import keras

FACTS, SEEN = {}, []
NUMBER = 3

class Seen(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        SEEN.append(sorted(logs))

def one(facts):
    FACTS.update(facts)
    return Seen()

def several(facts):
    return [Seen(), Seen()]

def nothing(facts):
    return None

def failing(facts):
    raise KeyError("api key")

class Broken(keras.callbacks.Callback):
    def __init__(self, method):
        super().__init__()
        self.method, self.calls = method, 0

    def fail_in(self, method, logs=None):
        self.calls += method == self.method
        if method == self.method and self.calls == 2:
            raise RuntimeError("the tracker is down")

    def on_train_batch_end(self, batch, logs=None):
        self.fail_in("on_train_batch_end")

    def on_epoch_end(self, epoch, logs=None):
        self.fail_in("on_epoch_end")

    def on_train_end(self, logs=None):
        self.calls += 1
        self.fail_in("on_train_end")

class Stopper(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 0

class Texts(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs.update(words="three", number=3)

def in_a_step(facts):
    return Broken("on_train_batch_end")

def in_an_epoch(facts):
    return Broken("on_epoch_end")

def at_the_end(facts):
    return Broken("on_train_end")

def stopping(facts):
    return Stopper()

def texts(facts):
    return Texts()
"""


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    (tmp_path / "my_hooks.py").write_text(HOOKS)
    (tmp_path / "broken_hooks.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_hooks", raising=False)
    return tmp_path


def test_a_hook_is_told_of_the_run_and_sees_the_columns_of_the_log(faces, hooks, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = hooks / "run"
    options = ("--callback", "my_hooks:one", "--callback", "my_hooks:several", "--tensorboard")
    assert run(faces, out, *options, "--epochs", "2", "--verify-people", "0") == 0
    import my_hooks

    facts = my_hooks.FACTS
    assert (facts["people"], facts["faces"], facts["steps_per_epoch"]) == (4, 40, 2)
    assert (facts["total_steps"], facts["step"], facts["chief"]) == (4, 0, True)
    assert facts["config"] == json.loads((out / "config.json").read_text())
    columns = set(rows(out)[0]) - {"epoch", "learning_rate", "seconds"}
    assert len(my_hooks.SEEN) == 6
    assert all(set(names) == columns for names in my_hooks.SEEN)
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert set(events.Tags()["tensors"]) == columns | {"learning_rate"}
    for name in ("loss", "learning_rate", "lambda"):
        points = [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)]
        expected = [(int(row["epoch"]), float(row[name])) for row in rows(out)]
        np.testing.assert_allclose(points, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_hooks", "must be MODULE:FUNCTION"),
        ("no_such_module:one", "no_such_module was not imported: ModuleNotFoundError"),
        ("broken_hooks:one", "No module named 'no_such_package'"),
        ("my_hooks:other", "my_hooks has no other"),
        ("my_hooks:NUMBER", "NUMBER is no function"),
        ("my_hooks:nothing", "must return a Keras callback"),
        ("my_hooks:failing", "failed: KeyError: 'api key'"),
    ],
)
def test_a_hook_that_cannot_work_is_named_and_nothing_is_begun(
    faces, hooks, monkeypatch, capsys, name, message
):
    monkeypatch.setattr("sys.path", [*sys.path])
    assert run(faces, hooks / "run", "--callback", name) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (hooks / "run").exists()


@pytest.mark.parametrize(("name", "step"), [("in_a_step", 2), ("in_an_epoch", 4)])
def test_a_callback_that_fails_is_named_and_costs_no_update(
    faces, hooks, monkeypatch, capsys, name, step
):
    monkeypatch.setattr("sys.path", [*sys.path])
    assert run(faces, hooks / "whole", "--epochs", "3") == 0
    out = hooks / "run"
    assert run(faces, out, "--epochs", "3", "--callback", f"my_hooks:{name}") == 2
    told = capsys.readouterr().err
    assert 'raise RuntimeError("the tracker is down")' in told  # the traceback
    told = " ".join(told.split())
    assert f"error: --callback my_hooks:{name} failed in on_" in told
    assert f"RuntimeError: the tracker is down (stopped after step {step}; the state" in told
    assert run(faces, out, "--epochs", "3", "--resume") == 0
    for whole, resumed in zip(rows(hooks / "whole"), rows(out), strict=True):
        assert {**whole, "seconds": ""} == {**resumed, "seconds": ""}


def test_a_callback_that_fails_when_all_is_done_is_a_warning(faces, hooks, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", [*sys.path])
    out = hooks / "run"
    assert run(faces, out, "--epochs", "1", "--callback", "my_hooks:at_the_end") == 0
    assert "warning: --callback my_hooks:at_the_end failed in on_train_end" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert (out / "embedder.keras").exists()


def test_what_a_callback_logs_is_kept_if_it_is_a_number(faces, hooks, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", [*sys.path])
    out = hooks / "run"
    assert run(faces, out, "--epochs", "1", "--callback", "my_hooks:texts") == 0
    assert "words='three' is no number, and in no log" in " ".join(capsys.readouterr().err.split())
    assert float(rows(out)[0]["number"]) == 3
    assert "words" not in rows(out)[0]


@pytest.mark.usefixtures("small_backbone")
def test_a_run_that_a_callback_ends_says_so_and_goes_on(hooks, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", [*sys.path])
    options = ["--identities", "4", "--images", "8", "--input-size", "28x24", "--epochs", "3"]
    options += ["--verify-people", "4", "--verify-every", "3"]
    out = hooks / "run"
    assert run("synthetic", out, *options, "--callback", "my_hooks:stopping") == 0
    assert "by a callback, of 3" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["epochs"], summary["final"]["epoch"]) == (1, 1)
    verified = float(rows(out)[0]["verification_accuracy"])  # after the end, as it was its last
    assert (summary["best"]["epoch"], summary["best"]["verification_accuracy"]) == (1, verified)
    assert run("synthetic", out, *options, "--resume") == 0
    assert [row["epoch"] for row in rows(out)] == ["1", "2", "3"]
    assert float(rows(out)[0]["verification_accuracy"]) == verified  # of the checkpoint
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["epochs"], summary["ended early"]) == (3, None)


def test_a_run_by_muon_with_a_cosine_and_averages_says_so_and_resumes(faces, tmp_path, capsys):
    options = ["--epochs", "3", "--optimizer", "muon", "--schedule", "cosine", "--warm-up", "0.5"]
    options += ["--ema", "0.9", "--loss", "cosface"]
    out, plan = tmp_path / "run", tmp_path / "plan.json"
    assert run(faces, out, *options, "--dry-run", "--json", str(plan)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "muon: decoupled decay 0.05 of kernels; Muon for" in said
    assert "rises for 0.5 epochs, then falls as a cosine to 0" in said
    assert "momentum 0.9" in said
    report = json.loads(plan.read_text())
    assert report["learning_rate"] == 0.001
    assert report["weights_by_rule"]["muon"] == 5  # four convolutions and the embedding
    assert any("rate has risen" in row["why"] for row in report["schedule"])
    assert report["memory_per_replica"]["averages"] == 4 * report["parameters"]["backbone"]
    assert run(faces, out, *options) == 0
    config = json.loads((out / "config.json").read_text())["recipe"]
    expected = {"optimizer": "muon", "schedule": "cosine", "warm_up": 0.5, "ema": 0.9}
    assert {name: config[name] for name in expected} == expected
    used = [float(row["learning_rate"]) for row in rows(out)]
    right = [5e-4 * (1 + np.cos(np.pi * (u - 1) / 5)) for u in (1, 3, 5)]  # of updates 2, 4, 6
    np.testing.assert_allclose(used, right, rtol=1e-5)
    averaged, plain = (
        keras.models.load_model(out / name, compile=False).get_weights()
        for name in ("embedder.keras", "unaveraged.keras")
    )
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(averaged, plain, strict=True))
    assert run(faces, out, *options[:-4], "--ema", "0.8", "--loss", "cosface", "--resume") == 2
    assert "ema was 0.9, now 0.8" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("small_backbone")
def test_averages_are_what_is_verified_and_kept(tmp_path):
    options = ["--identities", "4", "--images", "8", "--input-size", "28x24", "--epochs", "1"]
    options += ["--ema", "0.5", "--loss", "cosface", "--verify-people", "4"]
    out = tmp_path / "run"
    assert run("synthetic", out, *options) == 0
    best, last, plain = (
        keras.models.load_model(out / f"{name}.keras", compile=False).get_weights()
        for name in ("best", "embedder", "unaveraged")
    )
    for a, b in zip(best, last, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(best, plain, strict=True))
