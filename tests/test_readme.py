"""The Python blocks of README.md run, in their order, in one namespace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks() -> list[tuple[int, str]]:
    """Return line number and code of each Python block."""
    text = README.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]


def test_first_script_is_ten_lines():
    code = blocks()[0][1]
    statements = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(statements) == 10


def test_old_code_is_marked():
    for _, code in blocks():
        assert code.startswith("# before\n") == ("tensorflow_addons" in code)


# Two logical CPUs stand for two GPUs. A process of its own: TensorFlow confuses the collectives of
# two MirroredStrategies in one process, and README makes one.
RUN = """
import json, sys
import keras, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
namespace = {}
for line, code in json.load(sys.stdin):
    keras.utils.set_random_seed(0)
    # Empty lines before the code, so that a traceback names README's line.
    exec(compile("\\n" * (line - 1) + code, "README.md", "exec"), namespace)
shapes = {name: namespace[name].shape for name in ("embeddings", "vectors")}
print(json.dumps({"replicas": namespace["strategy"].num_replicas_in_sync, **shapes}))
"""


@pytest.mark.slow
def test_blocks_run(tmp_path):
    runnable = [block for block in blocks() if not block[1].startswith("# before\n")]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(runnable),
        capture_output=True,
        text=True,
        cwd=tmp_path,  # a block writes embedder.keras
        env={**os.environ, "PYTHONPATH": str(README.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "replicas": 2,
        "embeddings": [160, 128],
        "vectors": [2, 128],
    }
