"""`tf_sphereface-train --strategy multiworker`: two processes train what one does."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tf_sphereface.cli import train

COMMAND = (
    "--data synthetic --identities 6 --images 20 --preset quick --input-size 28x24 "
    f"--batch-size {2 * 6} --epochs 1 --embedding-dim 16 --augment strong --precision float32"
).split()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_workers(out: Path, *options: str) -> list[str]:
    """Run two workers on one run folder, as on a shared disk; return what they said."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index in range(2):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        command = "import sys; from tf_sphereface.cli.train import main; sys.exit(main())"
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", command, *COMMAND, "--out", str(out), *options],
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], (
        said[0][-3000:] + said[1][-3000:]
    )
    return said


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


@pytest.mark.slow
def test_two_workers_train_what_one_does(tmp_path):
    said = run_workers(tmp_path / "two", "--strategy", "multiworker")
    for text in said:
        assert "strategy multiworker: 2 replica(s), batch 12 (6 each)" in text
    assert (tmp_path / "two" / "embedder.keras").exists()
    assert train.main([*COMMAND, "--out", str(tmp_path / "one")]) == 0
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("loss", "accuracy", "lambda", "learning_rate"):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-5), name
    one, two = (
        keras.models.load_model(tmp_path / name / "embedder.keras") for name in ("one", "two")
    )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # float32 sums in another order


def test_without_a_cluster_it_says_what_to_set(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert train.main([*COMMAND, "--out", str(tmp_path), "--strategy", "multiworker"]) == 2
    assert "TF_CONFIG" in capsys.readouterr().err
