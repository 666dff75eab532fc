"""The full head keeps few tables of the logits' size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The largest resident size of a process, less what it had before the first large batch, in units
# of one table of logits, after three steps with each loss: the peak of one is that of all. VmHWM,
# not ru_maxrss: the latter outlives exec, so that a child of a large test process begins with its
# parent's peak.
MEASURE = r"""
import re, sys
from pathlib import Path
import keras, numpy as np
import tf_sphereface as sf

batch, classes = 1024, 40_000
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(batch, 8)).astype("float32"), rng.integers(0, classes, batch)
status = Path("/proc/self/status")
size = lambda: int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
before = 0
for loss in (sf.losses.CosFaceLoss(), sf.losses.ASoftmaxLoss(annealing=5.0)):
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    model = sf.FaceClassifier(net, classes)
    compiler = {"jit_compile": sys.argv[1] == "xla"}
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"], **compiler)
    model.train_on_batch(images[:2], labels[:2])
    before = before or size()
    for _ in range(3):
        model.train_on_batch(images, labels)
    print((size() - before) / (4 * batch * classes))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_a_step_needs_less_than_three_logits_matrices(compiler):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, compiler],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cosface, both = map(float, done.stdout.splitlines()[-2:])
    # The logits (without XLA the metrics have let go of them before the loss, with XLA their join
    # with the norms comes after), and one table that becomes the gradient: 2.15, with XLA 2.3.
    assert 1.0 < cosface <= both < 3.0
