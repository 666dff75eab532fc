"""Any strategy trains as one device does, on the same global batches, XLA or not."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.cases import STEPS, main, run, run_all
from tests.fork_server import ForkedProcess

pytestmark = pytest.mark.slow
A4, A2 = ["ASoftmaxLoss", {"margin": 4}], ["ASoftmaxLoss", {"margin": 2, "annealing": 5.0}]

# Every pair of values of {XLA, loss, batch normalisation, sample weights, clipping, accumulation}
# occurs, but XLA with synchronised batch normalisation, which is refused (see test_xla.py), some
# with one of the two ways to clip.
CASES: list[dict[str, Any]] = [
    {
        **{"loss": A4, "jit": True, "weighted": True},
        "sgd": {"clipnorm": 0.2, "gradient_accumulation_steps": 3},
    },
    {"loss": A2, "jit": True, "sgd": {"global_clipnorm": 0.5}},
    {"loss": "softmax", "jit": True, "weighted": True},
    {"loss": A2, "jit": False, "sgd": {"gradient_accumulation_steps": 2}},
    {"loss": A4, "jit": False, "normalise": True},
    {"loss": A2, "jit": False, "normalise": True, "weighted": True, "sgd": {"clipnorm": 0.2}},
    {
        **{"loss": "softmax", "jit": False, "normalise": True},
        "sgd": {"global_clipnorm": 0.5, "gradient_accumulation_steps": 2},
    },
    {"loss": A4, "jit": False, "dropout": True, "weighted": True},
    {"loss": A4, "jit": True, "model": {"sample_rate": 0.375}},
    {"loss": ["CosFaceLoss", {"scale": 8.0}], "jit": False, "model": {"sample_rate": 0.375}},
]
# Devices of each process, and which cases run there: most on mirrored devices, some on workers.
CLUSTERS = {"mirrored over 4": 4, "mirrored over 2": 2, "2 workers": 1, "2 workers of 2": 2}
CASES_OF = {
    "mirrored over 4": [2],
    "mirrored over 2": [0, 1, 3, 4, 5, 7, 9],
    "2 workers": [6, 7],
    "2 workers of 2": [2, 8],
}
RUNS = [(cluster, case) for cluster, cases in CASES_OF.items() for case in cases]


def start(role: str, cases: Path, out: Path, devices: int, cluster: Any = None) -> ForkedProcess:
    environment = {"LOGICAL_DEVICES": str(devices)}
    if cluster:
        environment["TF_CONFIG"] = json.dumps(cluster)
    return ForkedProcess(main, role, str(cases), str(out), environment=environment)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def finish(processes: list[ForkedProcess]) -> None:
    for process in processes:
        code, said = process.finish(600)
        assert code == 0, said[-3000:]


@pytest.fixture(scope="module")
def single() -> list[dict[str, np.ndarray]]:
    """What one device finds in each case; in this process, which spares another's start."""
    return [run(case, None) for case in CASES]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory, two_replicas) -> Callable[[str], list[dict[str, np.ndarray]]]:
    """Return what each process of a cluster found; each cluster runs once."""
    folder = tmp_path_factory.mktemp("distributed")

    @functools.cache
    def found(name: str) -> list[dict[str, np.ndarray]]:
        chosen, devices = {number: CASES[number] for number in CASES_OF[name]}, CLUSTERS[name]
        if devices == two_replicas.num_replicas_in_sync and name.startswith("mirrored"):
            return [run_all(chosen, two_replicas)]
        cases = folder / f"{name}.json"
        cases.write_text(json.dumps(chosen))
        if name.startswith("mirrored"):
            outs = [folder / f"{name}.npz"]
            finish([start("mirrored", cases, outs[0], devices)])
        else:
            outs = [folder / f"{name}-{index}.npz" for index in range(2)]
            cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
            tasks = [{"type": "worker", "index": index} for index in range(2)]
            finish(
                [
                    start("worker", cases, out, devices, {"cluster": cluster, "task": task})
                    for out, task in zip(outs, tasks, strict=True)
                ]
            )
        return [dict(np.load(out)) for out in outs]

    return found


def norm_of_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))


@pytest.mark.parametrize(("cluster", "number"), RUNS)
def test_equals_one_device(found_by, single, cluster, number):
    case = CASES[number]
    expected = single[number]
    names = [name for name in expected if name.startswith("log/")]
    accuracy = "log/sampled_accuracy" if "model" in case else "log/accuracy"
    assert {"log/loss", accuracy} <= set(names)
    assert ("log/lambda" in names) == (case["loss"] == A4)
    for process in found_by(cluster):
        found = {name: process[f"{number}/{name}"] for name in expected}
        assert bool(found["xla"]) is case["jit"]
        updates = STEPS // case.get("sgd", {}).get("gradient_accumulation_steps", 1)
        assert found["updates"] == expected["updates"] == updates
        if case.get("dropout"):  # each replica drops other units: it need only train
            assert np.isfinite(found["log/loss"]).all()
            assert found["log/loss"][-1] < found["log/loss"][0]
            np.testing.assert_allclose(found["log/lambda"], expected["log/lambda"], rtol=1e-6)
            continue
        # Float32 sums in another order; the variance of a batch amplifies that.
        tolerance = 1e-3 if case.get("normalise") else 1e-5
        for name in [*names, "embedding"]:
            assert norm_of_difference(expected[name], found[name]) < tolerance, name
        weights = [name for name in expected if name.startswith("weight/")]
        pairs = [(expected[name].ravel(), found[name].ravel()) for name in weights]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        assert norm_of_difference(a, b) < tolerance
