"""A killed run goes on bit for bit: real processes, real SIGKILL, at seeded random steps."""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from keras.models import load_model

from tests.fork_server import ForkedProcess
from tf_sphereface import data
from tf_sphereface.commands.train import main
from tf_sphereface.data import synthetic
from tf_sphereface.layers.center_table import CenterTable
from tf_sphereface.training import run_callbacks
from tf_sphereface.training.checkpoint import checkpoint_files, read_checkpoint

STEPS, EPOCHS, BATCH = 4, 2, 16
OPTIONS = (
    f"--preset quick --input-size 28x24 --batch-size {BATCH} --embedding-dim 16 --augment strong "
    "--dropout 0.2 --precision float32 --checkpoint-every 2"
).split()
SYNTHETIC = (
    f"--data synthetic --identities 8 --images 8 --epochs {EPOCHS} --verify-people 4"
).split()


# The child kills itself: after the update of a step, or while a checkpoint is half-written.
def train_and_die(at: int, how: str, arguments: list[str]) -> None:
    """Train in a process of its own, and end it by SIGKILL in or after update `at`; 0 is never."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at and how == "writing":
        real = np.savez

        def savez(handle, **arrays):
            if int(arrays["optimizer/0"]) >= at:
                handle.write(b"PK half a checkpoint")
                handle.flush()
                die()
            real(handle, **arrays)

        np.savez = savez
    elif at and how == "centers":  # between the centers' file and the momentum's
        real_write, steps = CenterTable.write, iter(range(at - 1))

        def write(self, classes, rows):
            if next(steps, None) is None:
                self._tables[0][self._where(classes)] = rows[0]
                die()
            real_write(self, classes, rows)

        CenterTable.write = write
    elif at:
        real_end = run_callbacks.Checkpoints.on_train_batch_end

        def end(self, batch, logs=None):
            if self.step + 1 == at:
                die()
            real_end(self, batch, logs)

        run_callbacks.Checkpoints.on_train_batch_end = end
    sys.exit(main.main(arguments))


def start(
    out: Path, *options: str, die_at: int = 0, how: str = "step", source: list[str] = SYNTHETIC
) -> ForkedProcess:
    arguments = [*source, *OPTIONS, "--out", str(out), *options]
    return ForkedProcess(train_and_die, die_at, how, arguments)


def finish(process: ForkedProcess, code: int) -> str:
    found, output = process.finish()
    assert found == code, output
    return output


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        del row["seconds"]
    return rows


def assert_same_end(whole: Path, broken: Path, steps: int) -> None:
    ends = [read_checkpoint(checkpoint_files(out / "checkpoints")[0]) for out in (whole, broken)]
    assert [end.info["step"] for end in ends] == [steps, steps]
    assert set(ends[0].arrays) == set(ends[1].arrays)
    for key, value in ends[0].arrays.items():
        np.testing.assert_array_equal(value, ends[1].arrays[key], err_msg=key)


@pytest.mark.slow
def test_a_run_killed_twice_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted = start(whole)
    total = STEPS * EPOCHS
    first, second = sorted(random.Random(1).sample(range(3, total), 2))  # a state is kept by then
    for at, how, options in ((first, "step", []), (second, "writing", ["--resume"])):
        finish(start(broken, *options, die_at=at, how=how), -signal.SIGKILL)
        assert not (broken / "embedder.keras").exists()
    output = finish(start(broken, "--resume"), 0)
    assert "resumed after step" in output
    finish(uninterrupted, 0)

    assert log(broken) == log(whole)
    assert len(log(whole)) == EPOCHS
    assert_same_end(whole, broken, total)
    assert not list((broken / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_killed_run_on_a_rec_file_goes_on_bit_for_bit(tmp_path):
    faces = synthetic.write_folder(tmp_path / "faces", 6, 10, size=(28, 24))
    rec = data.write_rec(faces, tmp_path / "rec").path
    source = ["--data", str(rec), "--epochs", "2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(broken, die_at=5, source=source), -signal.SIGKILL)
    assert "resumed after step" in finish(start(broken, "--resume", source=source), 0)
    assert main.main([*source, *OPTIONS, "--out", str(whole)]) == 0  # here: bits are bits
    assert log(broken) == log(whole)
    assert_same_end(whole, broken, 2 * (60 // BATCH))


@pytest.mark.slow
def test_a_run_killed_while_it_writes_its_centers_goes_on_bit_for_bit(tmp_path):
    source = ["--data", "synthetic", "--identities", "40", "--images", "4", "--epochs", "2"]
    source += ["--sample-rate", "0.5"]
    whole, broken, folder = tmp_path / "whole", tmp_path / "broken", str(tmp_path / "centers")
    finish(
        start(broken, "--centers", folder, die_at=9, how="centers", source=source), -signal.SIGKILL
    )
    output = finish(start(broken, "--resume", source=source), 0)
    assert "resumed after step 8" in output
    assert f"all in {folder}" in output
    finish(start(whole, source=source), 0)
    assert log(broken) == log(whole)
    ends = [load_model(out / "embedder.keras", compile=False) for out in (broken, whole)]
    for a, b in zip(*(end.get_weights() for end in ends), strict=True):
        np.testing.assert_array_equal(a, b)
