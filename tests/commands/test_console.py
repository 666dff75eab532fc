"""What every command does with an error."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface.commands.console import CheckFailed, CommandError, command


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
    ],
)
def test_an_error_is_one_message_and_a_code(main, code, message, capsys, monkeypatch):
    monkeypatch.delenv("TF_SPHEREFACE_DEBUG", raising=False)
    assert command(lambda argv=None: main())([]) == code
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(message)
    assert "\n" not in printed


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError):
        command(raises(RuntimeError("ours")))([])
