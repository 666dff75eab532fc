"""Runs whose class centres are not on the device: stopped, killed, resumed, and refused."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from tests.training.test_resumable import RECIPE as SMALL
from tests.training.test_resumable import rows
from tf_sphereface import training
from tf_sphereface.data import FaceSource, SyntheticFaces
from tf_sphereface.layers.center_table import CenterTable
from tf_sphereface.training.checkpoint import checkpoint_files

RECIPE = dataclasses.replace(SMALL, sample_rate=0.5, batch_size=4, loss="cosface", dropout=0.0)


def source() -> FaceSource:
    return FaceSource(SyntheticFaces(8, 2), image_size=(28, 24))  # 4 updates an epoch


def run(out, **options) -> training.Run:
    return training.run(RECIPE, source(), out, checkpoint_every=1, **options)


def killed_in_a_write(monkeypatch, number: int) -> None:
    """Let the write of an update fail between the centres and their momentum."""
    real, count = CenterTable.write, iter(range(number))

    def write(self, classes, rows):
        if next(count, None) is None:
            self._tables[0][self._where(classes)] = np.nan
            raise InterruptedError
        real(self, classes, rows)

    monkeypatch.setattr(CenterTable, "write", write)


@pytest.mark.parametrize("place", ["host", "folder"])
def test_a_run_stopped_in_mid_write_ends_as_one_on_the_device(place, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    centers = tmp_path / "centers" if place == "folder" else place
    with monkeypatch.context() as patched:
        killed_in_a_write(patched, 6)
        with pytest.raises(Exception, match="InterruptedError"):
            run(tmp_path / "broken", centers=centers)
    resumed = run(tmp_path / "broken", resume=True)  # it knows where its centres are
    assert resumed.step == 6
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    for a, b in zip(whole.network().get_weights(), resumed.network().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    table = resumed.model.head_layer.center_table
    for number, store in enumerate(whole.model.head_layer.stores):
        np.testing.assert_array_equal(table.whole(number), store.numpy())
    assert resumed.room().each == pytest.approx(
        checkpoint_files(tmp_path / "broken" / "checkpoints")[0].stat().st_size, rel=0.1
    )


def test_a_run_is_resumed_where_its_centres_are(tmp_path):
    out, folder = tmp_path / "run", tmp_path / "centers"
    first = run(out, centers=folder)  # is still there when the folder is opened elsewhere
    for other in ("device", "host"):
        with pytest.raises(ValueError, match=rf"are in {folder}: resume it with --centers"):
            run(out, resume=True, centers=other)
    with pytest.raises(ValueError, match="a run that has a checkpoint: resume that run"):
        run(tmp_path / "second", centers=folder)
    assert not (tmp_path / "second" / "checkpoints").exists()
    folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"name the folder where they are now \(--centers DIR\)"):
        run(out, resume=True)
    assert run(out, resume=True, centers=tmp_path / "moved").step == 8
    assert first.step == 0  # its model has left the files to the other


def test_a_full_disk_is_an_error_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"checkpoints: about .* MB each, .* in all; the disk has 1"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
