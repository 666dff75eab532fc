"""A GPU computes what the CPU does, XLA or not, one device or two, sampled or not.

Skipped without a GPU. TF_SPHEREFACE_GPU_TESTS=CPU rehearses them on logical CPU devices.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

HERE = Path(__file__).resolve().parent
REHEARSED = os.environ.get("TF_SPHEREFACE_GPU_TESTS") == "CPU"
DEVICE = "CPU" if REHEARSED else "GPU"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REHEARSED and not tf.config.list_physical_devices("GPU"),
        reason="no GPU: TF_SPHEREFACE_GPU_TESTS=CPU rehearses it on logical CPU devices",
    ),
]

# With other slopes a value that rounding takes across a PReLU's kink changes its gradient.
PLAIN = {"loss": ["ASoftmaxLoss", {"margin": 4}], "slope": 1.0}
CASES: list[dict[str, Any]] = [
    {**PLAIN, "jit": jit, **more}
    for jit in (True, False)
    for more in ({}, {"model": {"sample_rate": 0.75}}, {"depthwise": True})
]
NORMALISED = [{**PLAIN, "jit": jit, "normalise": True, "depthwise": True} for jit in (True, False)]
ALL = {str(number): case for number, case in enumerate([*CASES, *NORMALISED])}
# XLA refuses to normalise over replicas, and without XLA tests/distributed has it.
ON_TWO = [number for number, case in ALL.items() if "normalise" not in case]
RUNS = [*(("one device", number) for number in ALL), *(("two devices", n) for n in ON_TWO)]


def run(script: Path, *arguments: str, device: str, **variables: str) -> None:
    """Run a script on a device alone; the CPU's process sees no GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "CPU" else {}
    environment = {**os.environ, **hidden, "DEVICE": device, **variables}
    environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """What the CPU, the device, and two logical devices have found after 20 steps."""
    folder = tmp_path_factory.mktemp("equality")
    script = HERE.parent / "distributed" / "cases.py"
    results = {}
    for name, role, device, count in (
        ("CPU", "single", "CPU", 1),
        ("one device", "single", DEVICE, 1),
        ("two devices", "mirrored", DEVICE, 2),
    ):
        cases = {n: ALL[n] for n in (ON_TWO if count == 2 else ALL)}
        file, out = folder / f"{name}.json", folder / f"{name}.npz"
        file.write_text(json.dumps(cases))
        variables = {"STEPS": "20", "LOGICAL_DEVICES": str(count)}
        run(script, role, str(file), str(out), device=device, **variables)
        results[name] = dict(np.load(out))
    return results


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Return the norm of the difference, relative to the first's."""
    first, second = (np.concatenate([value.ravel() for value in side]) for side in (a, b))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


@pytest.mark.parametrize(("devices", "number"), RUNS)
def test_twenty_steps_are_those_of_the_cpu(found, devices, number):
    expected, seen = found["CPU"], found[devices]
    assert bool(seen[f"{number}/xla"]) is ALL[number]["jit"]
    assert seen[f"{number}/updates"] == 20
    # Float32 sums in another order; the variance of a batch amplifies that.
    tolerance = 1e-3 if "normalise" in ALL[number] else 1e-5
    weights = [name for name in expected if name.startswith(f"{number}/weight/")]
    for names in ([f"{number}/log/loss"], [f"{number}/embedding"], weights):
        a, b = ([side[name] for name in names] for side in (expected, seen))
        assert difference(a, b) < tolerance, names


@pytest.mark.parametrize(("begin", "end", "jit"), [("CPU", DEVICE, "1"), (DEVICE, "CPU", "0")])
def test_a_run_that_goes_on_on_another_device_draws_the_same(tmp_path, begin, end, jit):
    def steps(first: int, device: str) -> dict[str, Any]:
        out, checkpoint = tmp_path / f"{first}.npz", tmp_path / "checkpoint.npz"
        arguments = (str(first), "10", str(checkpoint), str(out))
        run(HERE / "resumed_run.py", *arguments, device=device, JIT=jit)
        return dict(np.load(out))

    whole, resumed = steps(0, begin), steps(5, end)
    assert begin in str(whole["device"])
    assert end in str(resumed["device"])
    assert whole["samples"].sum(axis=1).tolist() == [20] * 10
    for name in ("samples", "labels", "images"):
        np.testing.assert_array_equal(resumed[name], whole[name][5:])
    weights = [name for name in whole if name.startswith("weight/")]
    a, b = ([side[name] for name in weights] for side in (whole, resumed))
    assert difference(a, b) < 1e-5  # float32 sums in another order
