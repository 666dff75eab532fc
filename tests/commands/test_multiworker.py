"""`tf_sphereface-train --strategy multiworker`: two processes train what one does."""

from __future__ import annotations

import csv
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.fork_server import ForkedProcess
from tf_sphereface.commands.train import main
from tf_sphereface.training.checkpoint import checkpoint_files, read_checkpoint

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


def work(arguments: list[str]) -> None:
    """Train as one of the workers, in a process of its own."""
    sys.exit(main.main(arguments))


def start_workers(*options: str, of_second: Sequence[str] = ()) -> list[ForkedProcess]:
    """Start two workers, the second with options of its own."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    workers = []
    for index, own in enumerate(((), of_second)):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        arguments = [*COMMAND, *options, *own]
        environment = {"TF_CONFIG": json.dumps(task)}
        workers.append(ForkedProcess(work, arguments, environment=environment))
    return workers


def run_workers(out: Path, *options: str) -> list[str]:
    """Run two workers on one run folder, as on a shared disk; return what they said."""
    processes = start_workers("--out", str(out), *options)
    codes, said = zip(*(process.finish() for process in processes), strict=True)
    assert codes == (0, 0), said[0][-3000:] + said[1][-3000:]
    return list(said)


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


@pytest.mark.slow
def test_two_workers_train_what_one_does(tmp_path):
    said = run_workers(tmp_path / "two", "--strategy", "multiworker")
    for text in said:
        assert "strategy multiworker: 2 replica(s), batch 12 (6 each)" in text
    assert (tmp_path / "two" / "embedder.keras").exists()
    assert main.main([*COMMAND, "--out", str(tmp_path / "one")]) == 0
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("loss", "accuracy", "lambda", "learning_rate"):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-5), name
    one, two = (
        keras.models.load_model(tmp_path / name / "embedder.keras") for name in ("one", "two")
    )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("options", [(), ("--from", __file__)])
def test_without_a_cluster_it_says_what_to_set(options, tmp_path, monkeypatch, capsys):
    """And does so before it opens a network, after which no cluster can be joined."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    words = [*COMMAND, "--out", str(tmp_path), "--strategy", "multiworker", *options]
    assert main.main(words) == 2
    assert "TF_CONFIG" in capsys.readouterr().err


@pytest.mark.slow
def test_one_worker_that_is_stopped_stops_both_and_they_go_on(tmp_path):
    """It must not begin to save: the other would go on with its step, and both wait for ever."""
    out = tmp_path / "run"
    options = ("--strategy", "multiworker", "--epochs", "300", "--out", str(out))
    workers = start_workers(*options)
    deadline = time.monotonic() + 240
    while not (out / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGTERM)
    codes, said = zip(*(worker.finish(240) for worker in workers), strict=True)
    assert codes == (2, 130), said
    assert "another worker has stopped or cannot be reached" in " ".join(said[0].split())
    assert "the same command with --resume goes on" in " ".join(said[1].split())
    kept = checkpoint_files(out / "checkpoints")
    assert kept
    assert read_checkpoint(kept[0]).info["step"] % 10 == 0  # an epoch's end: all saved together


@pytest.mark.slow
def test_workers_that_begin_from_other_states_are_refused(tmp_path):
    """One that does not see the checkpoints would sum gradients of other weights."""
    out = tmp_path / "run"
    assert main.main([*COMMAND, "--out", str(out)]) == 0
    options = ("--strategy", "multiworker", "--resume", "--epochs", "2", "--out", str(out))
    workers = start_workers(*options, of_second=("--out", str(tmp_path / "empty")))
    codes, said = zip(*(worker.finish(240) for worker in workers), strict=True)
    assert codes == (2, 2), said
    for text in said:
        told = " ".join(text.split())
        assert "the workers differ in the update that they go on from, the weights: every" in told
    assert len(rows(out)) == 1
