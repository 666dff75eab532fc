"""How the commands start TensorFlow: quietly, and with its fast path; import this before it.

On processors without AVX-512's or AVX's instructions for networks TensorFlow leaves oneDNN off,
with which a training step there is 1.1 to 1.7 times as fast (docs/benchmarks.md). The commands
turn it on, unless whoever runs them has decided otherwise.

TensorFlow writes half a dozen lines to standard error whenever it starts, about oneDNN, the
processor, and GPUs that are not there, some of them before any of its own settings count. Someone
who runs a command wants its progress and its errors. In a Python program nothing is changed.
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
VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # whoever sets it sees what they asked for
GREETINGS = (
    b"All log messages before absl::InitializeLog() is called",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized to use",
    b"To enable the following instructions",
)
is_quiet = False  # whether this process' TensorFlow was started so
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
    """Hold back what is written to standard error, then write it without some lines.

    Args:
        unwanted: a line that contains one of these is left out.
    """
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
    # Warnings tell why a GPU cannot be used. On a CPU they are about costs that nobody can change.
    os.environ[VARIABLE] = "1" if has_gpu else "2"
    with without_lines(GREETINGS if has_gpu else GREETINGS + WITHOUT_A_GPU):
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.list_physical_devices()


if is_command(sys.argv[0]):
    os.environ.setdefault(ONEDNN, "1")
    if VARIABLE not in os.environ:
        is_quiet = True
        start_tensorflow()
