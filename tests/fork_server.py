"""Processes that begin with TensorFlow imported, which costs four seconds of processor time each.

A server imports it once for all tests of a session and forks. TensorFlow survives that as long as
nothing has been computed, which the server never does.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path

from tests.without_grappler import turn_off_grappler
from tests.without_llvm_passes import FLAGS

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ["tensorflow", "tf_sphereface.commands.train.main"]


def prepare_server() -> None:
    """Start the server, which finds this checkout, unless it runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path


class ForkedProcess:
    """A function that runs in a process of its own; what it prints is kept.

    The function is found by its name, so it stands in a module. Its process has this one's
    environment as it is now, with `environment` over it.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        handle, output = tempfile.mkstemp(suffix=".txt")
        os.close(handle)
        self._output = Path(output)
        prepare_server()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=(function, arguments, {**os.environ, **(environment or {})}, output),
            daemon=True,  # ends with the tests
        )
        self._process.start()

    def finish(self, timeout: float = 300) -> tuple[int | None, str]:
        """Wait for the end; return the exit code, None where there was none in time, and output."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        said = self._output.read_text(encoding="utf-8", errors="replace")
        self._output.unlink()
        return code, said

    def is_alive(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        pid = self._process.pid
        if pid is not None and self._process.is_alive():
            os.kill(pid, number)


def _run(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    environment: dict[str, str],
    output: str,
) -> None:
    """Set the environment and the output, then call the function: in the new process."""
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    turn_off_grappler()  # as in the process that it may be compared with
    os.environ.setdefault("XLA_FLAGS", FLAGS)
    function(*arguments)


def run_code(code: str, given: object, folder: Path) -> None:
    """Run Python code in a folder, for a `ForkedProcess`; it finds `given` by that name."""
    os.chdir(folder)
    exec(compile(code, "given code", "exec"), {"__name__": "__main__", "given": given})
