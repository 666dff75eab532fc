"""A killed run goes on bit for bit: real processes, real SIGKILL, at seeded random steps."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface.training.checkpoint import checkpoint_files, read_checkpoint

STEPS, EPOCHS = 10, 4
COMMAND = (
    "--data synthetic --identities 8 --images 20 --preset quick --input-size 28x24 "
    f"--batch-size 16 --epochs {EPOCHS} --embedding-dim 16 --augment strong --dropout 0.2 "
    "--precision float32 --checkpoint-every 3 --verify-people 4"
).split()

# The child kills itself: after the update of a step, or while a checkpoint is half-written.
CHILD = """
import os, signal, sys
import numpy as np
from tf_sphereface.commands.train import main
from tf_sphereface.training import run_callbacks

die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
at, writing = int(sys.argv[1]), sys.argv[2] == "writing"
if at and writing:
    real = np.savez
    def savez(handle, **arrays):
        if int(arrays["optimizer/0"]) >= at:
            handle.write(b"PK half a checkpoint")
            handle.flush()
            die()
        real(handle, **arrays)
    np.savez = savez
elif at:
    real_end = run_callbacks.Checkpoints.on_train_batch_end
    def end(self, batch, logs=None):
        if self.step + 1 == at:
            die()
        real_end(self, batch, logs)
    run_callbacks.Checkpoints.on_train_batch_end = end
sys.exit(main.main(sys.argv[3:]))
"""


def start(out: Path, *options: str, die_at: int = 0, how: str = "step") -> subprocess.Popen[str]:
    arguments = [str(die_at), how, *COMMAND, "--out", str(out), *options]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        del row["seconds"]
    return rows


@pytest.mark.slow
def test_a_run_killed_twice_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted = start(whole)
    total = STEPS * EPOCHS
    first, second = sorted(random.Random(1).sample(range(2, total), 2))
    for at, how, options in ((first, "step", []), (second, "writing", ["--resume"])):
        finish(start(broken, *options, die_at=at, how=how), -signal.SIGKILL)
        assert not (broken / "embedder.keras").exists()
    output = finish(start(broken, "--resume"), 0)
    assert "resumed after step" in output
    finish(uninterrupted, 0)

    assert log(broken) == log(whole)
    assert len(log(whole)) == EPOCHS
    ends = [read_checkpoint(checkpoint_files(out / "checkpoints")[0]) for out in (whole, broken)]
    assert [end.info["step"] for end in ends] == [total, total]
    assert set(ends[0].arrays) == set(ends[1].arrays)
    for key, value in ends[0].arrays.items():
        np.testing.assert_array_equal(value, ends[1].arrays[key], err_msg=key)
    assert not list((broken / "checkpoints").glob(".*"))
