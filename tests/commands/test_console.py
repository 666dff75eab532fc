"""What every command does with an error."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.table import Table

from tf_sphereface.commands.console import (
    CheckFailed,
    CommandError,
    command,
    console,
    progress,
)
from tf_sphereface.utils.messages import SphereFaceWarning


def in_a_pipeline():
    def read(_):
        raise ValueError("shard-00003: record 5 is corrupt [checksum]")

    images = tf.data.Dataset.range(3).map(lambda i: tf.py_function(read, [i], tf.float32))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(images.map(lambda x: (tf.ones((1, 1)), tf.ensure_shape(x, ()))), verbose=0)


def in_an_operation():
    tf.matmul(np.ones((2, 3)), np.ones((2, 3)))


def raises(error):
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "message"),
    [
        (in_a_pipeline, 2, "error: shard-00003: record 5 is corrupt [checksum] (TF_"),
        (in_an_operation, 2, "error: Matrix size-incompatible"),
        (raises(CommandError("[bold] is no markup")), 2, "error: [bold] is no markup"),
        (raises(CheckFailed("8 > 3")), 1, "check failed: 8 > 3"),
        (raises(FileNotFoundError("x.keras")), 2, "error: x.keras"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
        (raises(tf.errors.InternalError(None, None, "of a graph")), 2, "error: of a graph"),
    ],
)
def test_an_error_is_one_message_and_a_code(main, code, message, capsys, monkeypatch):
    monkeypatch.delenv("TF_SPHEREFACE_DEBUG", raising=False)
    assert command(lambda argv=None: main())([]) == code
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(message)
    assert "\n" not in printed


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyError("x"), MemoryError()])
@pytest.mark.parametrize("debug", ["", "1"])
def test_a_defect_is_code_70_with_its_traceback(error, debug, capsys, monkeypatch):
    monkeypatch.setenv("TF_SPHEREFACE_DEBUG", debug)
    assert command(raises(error))([]) == 70
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert f"internal error: {type(error).__name__}" in printed


def test_the_code_of_bad_input_is_the_same_when_its_traceback_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("TF_SPHEREFACE_DEBUG", "1")
    assert command(raises(CommandError("x.jpg")))([]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_warnings_are_lines_each_once(capsys):
    def main(argv=None):
        for _ in range(2):
            warnings.warn("a guess [x]", SphereFaceWarning, stacklevel=1)
        return 0

    assert command(main)([]) == 0
    assert capsys.readouterr().err == "warning: a guess [x]\n"


def test_names_are_printed_as_they_are(capsys):
    name = "net[bold]v[red]2:key:[/]{x}"
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    assert capsys.readouterr().out.count(name) == 3
    bars = progress()
    bars.add_task(name)
    assert bars.columns[0].render(bars.tasks[0]).plain == name
