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
import os
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
"""


def _start(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    of_tests = (startup.VARIABLE, startup.ONEDNN)
    inherited = {k: v for k, v in os.environ.items() if k not in of_tests}
    return subprocess.run(
        [sys.executable, "-c", START.format(program=program)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize(
    ("given", "level", "onednn"),
    [
        ({}, ("1", "2"), "1"),
        ({startup.VARIABLE: "1", startup.ONEDNN: "0"}, ("1",), "0"),
    ],
)
def test_a_command_starts_in_silence_and_computes_with_onednn(given, level, onednn) -> None:
    """Whatever TensorFlow would choose for this processor; what the user has set is kept."""
    run = _start("/usr/bin/tf_sphereface-train", **given)
    first, level_found, onednn_found = run.stdout.splitlines()
    assert first == "2.0"
    assert level_found in level
    assert onednn_found == onednn
    assert run.stderr == ""


def test_a_program_and_a_curious_user_see_what_tensorflow_says() -> None:
    """Nothing is changed for `import tf_sphereface`, nor where the user wants to see everything."""
    program = _start("train.py")
    assert program.stdout.splitlines()[1:] == ["None", "None"]
    assert program.stderr  # which of its greetings there are depends on the machine
    asked = _start("tf_sphereface-train", **{startup.VARIABLE: "0"})
    assert "oneDNN custom operations are on" in asked.stderr


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


def _run(*line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in (startup.BACKEND, "KERAS_HOME")}
    return subprocess.run(
        [sys.executable, *line],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_another_backend_is_refused_in_one_line(tmp_path) -> None:
    """By the environment or by Keras' own file; before Keras looks for what is not installed."""
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    for given, told in (
        ({startup.BACKEND: "jax"}, "KERAS_BACKEND=jax"),
        ({"KERAS_HOME": str(tmp_path)}, f"backend 'torch' in {tmp_path}/keras.json"),
    ):
        python = _run("-c", "import tf_sphereface", **given)
        last = python.stderr.strip().splitlines()[-1]
        assert python.returncode == 1
        assert last.startswith("ImportError: tf_sphereface needs Keras' TensorFlow backend")
        assert last.endswith(told)
        as_command = "import sys; sys.argv[0] = 'tf_sphereface-train'; import tf_sphereface"
        for line in (["-c", as_command], ["-m", "tf_sphereface.commands.export.main"]):
            command = _run(*line, **given)
            assert command.returncode == 2
            assert command.stderr.splitlines() == [
                "error: tf_sphereface needs Keras' TensorFlow backend: set the environment "
                f"variable KERAS_BACKEND=tensorflow. Received: {told}"
            ]


def test_the_backend_that_keras_runs_on_counts(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(startup.BACKEND, "jax")  # set too late: Keras is imported
    assert startup.another_backend() is None
    monkeypatch.delitem(sys.modules, "keras")
    assert startup.another_backend() == "KERAS_BACKEND=jax"
    for value in ("tensorflow", ""):
        monkeypatch.setenv(startup.BACKEND, value)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        assert startup.another_backend() is None  # no file
    for content, expected in (("[]", None), ("{", None), ('{"floatx": "float32"}', None)):
        (tmp_path / "keras.json").write_text(content)
        assert startup.another_backend() is expected
