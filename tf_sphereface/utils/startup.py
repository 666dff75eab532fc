"""Start of TensorFlow, in commands quiet and with oneDNN; to be imported before TensorFlow.

Another backend of Keras is refused here, before Keras looks for it: layers and losses compute with
TensorFlow.

On processors without AVX-512's or AVX's instructions for networks TensorFlow leaves oneDNN off,
though a training step is 1.1 to 1.7 times as fast with it (docs/results/benchmarks.md); the
environment decides where it is set. The lines that TensorFlow writes to standard error
when it starts come before its own settings take effect. In a Python program nothing of that is
changed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_sphereface.utils import compile_cache

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # kept where the user has set it; at 0 nothing is held back
BACKEND = "KERAS_BACKEND"
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver on Linux, of WSL 2
GREETINGS = (
    b"All log messages before absl::InitializeLog() is called",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized to use",
    b"To enable the following instructions",
)
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


def has_gpu_device() -> bool:
    """Tell whether the system has a device of a GPU, before TensorFlow is imported."""
    return any(Path(device).exists() for device in GPU_DEVICES)


def start_tensorflow() -> None:
    """Import TensorFlow and look for devices, without its greetings."""
    has_gpu = has_gpu_device()
    # Warnings say why a GPU cannot be used. On a CPU they are about costs that cannot be changed.
    # What it says of each compiled function that it finds in the cache is not an error.
    without_gpu = "2" if compile_cache.started() is None else "3"
    os.environ.setdefault(VARIABLE, "1" if has_gpu else without_gpu)
    with without_lines(GREETINGS if has_gpu else GREETINGS + WITHOUT_A_GPU):
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.list_physical_devices()


def another_backend() -> str | None:
    """Return what sets Keras to another backend than TensorFlow, such as "KERAS_BACKEND=jax".

    The environment goes before Keras' configuration file. A Keras that is imported has chosen.
    """
    if "keras" in sys.modules:
        config = getattr(sys.modules["keras"], "config", None)
        name = config.backend() if config is not None else "tensorflow"
        return None if name == "tensorflow" else f"the backend {name!r}, which Keras runs on"
    chosen = os.environ.get(BACKEND)
    if chosen:
        return None if chosen == "tensorflow" else f"{BACKEND}={chosen}"
    home = "~" if os.access(Path("~").expanduser(), os.W_OK) else "/tmp"
    path = Path(os.environ.get("KERAS_HOME", f"{home}/.keras")).expanduser() / "keras.json"
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):  # Keras makes a new one, or complains itself
        return None
    return None if name == "tensorflow" else f"backend {name!r} in {path}"


def require_tensorflow_backend(as_command: bool) -> None:
    """Raise ImportError where Keras is set to another backend; end a command with one line."""
    found = another_backend()
    if found is None:
        return
    message = (
        "tf_sphereface needs Keras' TensorFlow backend: set the environment variable "
        f"{BACKEND}=tensorflow. Received: {found}"
    )
    if as_command:
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2)
    raise ImportError(message)


_is_command = is_command(sys.argv[0])
# `python -m tf_sphereface.commands...` is known by Python's own arguments, as long as it imports.
_is_module = sys.argv[0] == "-m" and any("tf_sphereface.commands" in a for a in sys.orig_argv)
require_tensorflow_backend(_is_command or _is_module)
_folder = None
if _is_command and Path(sys.argv[0]).name == "tf_sphereface-train":
    _folder = compile_cache.folder_from(sys.argv[1:], has_gpu_device())
cache_problem = "" if _folder is None else compile_cache.start(_folder)
if _is_command:
    os.environ.setdefault(ONEDNN, "1")
    if os.environ.get(VARIABLE) != "0":
        start_tensorflow()
