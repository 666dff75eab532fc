"""Runs whose faces have moved, and whose weights a callback puts back."""

from __future__ import annotations

import importlib
import json
import shutil

import keras
import numpy as np
import pytest

from tests.commands.train_runs import rows, run

RESTORING = """
import keras

WEIGHTS = []

class Noting(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        WEIGHTS.append(self.model.backbone.get_weights())

def make(facts):
    return [Noting(), keras.callbacks.EarlyStopping(
        monitor="loss", mode="max", patience=9, restore_best_weights=True)]
"""


@pytest.mark.usefixtures("small_backbone")
def test_a_run_goes_on_where_its_faces_are_in_another_place(faces, tmp_path, capsys, caplog):
    out, moved = tmp_path / "run", tmp_path / "moved"
    assert run(faces, out, "--epochs", "1") == 0
    shutil.copytree(faces, moved)
    assert run(moved, out, "--epochs", "2", "--resume") == 0
    assert f"are in {moved} now" in caplog.text
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    first = min(path for path in moved.iterdir() if path.is_dir())
    first.rename(moved / "somebody_else")
    assert run(moved, out, "--epochs", "3", "--resume") == 2
    assert "of other names or in another order" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("small_backbone")
@pytest.mark.parametrize("averaged", [False, True])
def test_weights_that_a_callback_puts_back_are_not_called_the_last_epoch_s(
    faces, tmp_path, monkeypatch, capsys, averaged
):
    (tmp_path / f"restoring_{averaged}.py").write_text(RESTORING)
    monkeypatch.syspath_prepend(tmp_path)
    out, options = tmp_path / "run", ["--ema", "0.5"] if averaged else []
    options += ["--callback", f"restoring_{averaged}:make"]
    assert run(faces, out, "--epochs", "2", *options) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "a callback put other weights back as training ended" in said
    assert ("unaveraged.keras holds those" in said) is averaged
    card = (out / "embedder.keras.card.md").read_text()
    assert "last epoch of training" not in card
    assert json.loads((out / "summary.json").read_text())["final"]["epoch"] == 2
    held = keras.models.load_model(
        out / ("unaveraged.keras" if averaged else "embedder.keras"), compile=False
    )
    first, last = importlib.import_module(f"restoring_{averaged}").WEIGHTS
    best = first if float(rows(out)[0]["loss"]) >= float(rows(out)[1]["loss"]) else last
    assert best is first
    for restored, noted in zip(held.get_weights(), first, strict=True):
        np.testing.assert_array_equal(restored, noted)
