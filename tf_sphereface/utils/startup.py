"""The commands' start of TensorFlow, quiet and with oneDNN; to be imported before TensorFlow.

On processors without AVX-512's or AVX's instructions for networks TensorFlow leaves oneDNN off,
though a training step is 1.1 to 1.7 times as fast with it (docs/benchmarks.md); the environment
decides where it is set. The lines that TensorFlow writes to standard error when it starts come
before its own settings take effect. In a Python program nothing is changed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # where the user has set it, nothing is held back
GREETINGS = (
    b"All log messages before absl::InitializeLog() is called",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized to use",
    b"To enable the following instructions",
)
is_quiet = False  # whether TensorFlow was started quietly in this process
WITHOUT_A_GPU = (b"Could not find cuda drivers", b"failed call to cuInit")


def is_command(program: str) -> bool:
    """Whether a program is one of the project's commands, by its name.

    Example:

    >>> is_command("/usr/local/bin/tf_sphereface-train"), is_command("train.py")
    (True, False)
    """
    return Path(program).name.startswith("tf_sphereface-")


@contextlib.contextmanager
def without_lines(unwanted: Sequence[bytes]) -> Iterator[None]:
    """Hold back standard error, then write it without lines that contain something unwanted."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held:
                if not any(words in line for words in unwanted):
                    os.write(2, line)


def start_tensorflow() -> None:
    """Import TensorFlow and look for devices, without its greetings."""
    has_gpu = Path("/dev/nvidiactl").exists()
    # Warnings say why a GPU cannot be used. On a CPU they are about costs that cannot be changed.
    os.environ[VARIABLE] = "1" if has_gpu else "2"
    with without_lines(GREETINGS if has_gpu else GREETINGS + WITHOUT_A_GPU):
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.list_physical_devices()


if is_command(sys.argv[0]):
    os.environ.setdefault(ONEDNN, "1")
    if VARIABLE not in os.environ:
        is_quiet = True
        start_tensorflow()
