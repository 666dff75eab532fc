"""Each script in examples/ runs by itself, in its quick form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))

# script -> (options, what it says, what it writes)
QUICK = {
    "digits_on_a_sphere": (["--out", "digits.png"], "A-Softmax, m = 4: pairs", ["digits.png"]),
    "train_on_a_folder": (["--out", "run"], "embeddings (2, 512)", ["run/embedder.keras"]),
    "mirrored_strategy": ([], "2 replicas; XLA: off", []),
    "export_and_verify": (
        ["--out", "exported"],
        "embedder.int8.tflite",
        ["exported/embedder.none.tflite", "exported/embedder.onnx"],
    ),
}


def test_every_script_is_tested_and_listed():
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in SCRIPTS} == set(QUICK)
    assert all(f"`{path.name}`" in listed for path in SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICK))
def test_example(name: str, tmp_path: Path) -> None:
    options, said, written = QUICK[name]
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--quick", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,  # some twenty seconds each on two cores that are free
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert said in run.stdout
    for path in written:
        assert (tmp_path / path).stat().st_size > 1000
