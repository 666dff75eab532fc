"""The commands say what they have to say, and TensorFlow's greetings do not drown it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tf_sphereface.utils import startup

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
sys.argv[0] = {program!r}
import tf_sphereface
import tensorflow as tf  # noqa: E402
print(float(tf.function(lambda x: x + 1.0, jit_compile=True)(1.0)))
"""


def _start(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != startup.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", START.format(program=program)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_command_starts_in_silence() -> None:
    run = _start("/usr/bin/tf_sphereface-train")
    assert run.stdout == "2.0\n"
    assert run.stderr == ""


def test_a_program_and_a_curious_user_see_what_tensorflow_says() -> None:
    """Nothing is changed for `import tf_sphereface`, nor where the variable is set."""
    assert "oneDNN custom operations are on" in _start("train.py").stderr  # conftest turns it on
    asked = _start("tf_sphereface-train", **{startup.VARIABLE: "0"})
    assert "oneDNN custom operations are on" in asked.stderr


SHOW = """
import os, sys
sys.argv[0] = {program!r}
import tf_sphereface
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
"""


@pytest.mark.parametrize(
    ("program", "given", "expected"),
    [("tf_sphereface-eval", None, "1"), ("tf_sphereface-eval", "0", "0"), ("a.py", None, "None")],
)
def test_commands_compute_with_onednn_unless_told_otherwise(program, given, expected) -> None:
    """Whatever TensorFlow would choose for this processor; a program of one's own is let alone."""
    environment = {k: v for k, v in os.environ.items() if k != startup.ONEDNN}
    if given is not None:
        environment[startup.ONEDNN] = given
    found = subprocess.run(
        [sys.executable, "-c", SHOW.format(program=program)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.strip() == expected


def test_other_lines_are_kept(capfd) -> None:
    with startup.without_lines((b"greeting",)):
        os.write(2, b"an error\na greeting from below\na traceback\n")
    assert capfd.readouterr().err == "an error\na traceback\n"


def test_lines_survive_a_failed_import(capfd) -> None:
    try:
        with startup.without_lines((b"greeting",)):
            os.write(2, b"libcudart.so is broken\n")
            raise ImportError("tensorflow")
    except ImportError:
        pass
    assert capfd.readouterr().err == "libcudart.so is broken\n"
