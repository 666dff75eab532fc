"""The parent's end of a `worker.py` process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from cases import Variant

HERE = Path(__file__).resolve().parent


class WorkerFailed(RuntimeError):
    """The process ended before it answered; the message is the end of what it wrote."""


class Worker:
    """A process that has prepared a variant; use it as a context manager.

    Args:
        variant: what to prepare.
        threads: how many it may use.
        first_core: of the cores that it may use, counted from 0.
        environment: variables of the process; by default oneDNN is on, as in the commands.
        python: the interpreter; by default this one.

    Raises:
        WorkerFailed: from `__enter__`, `run` and `stop`.
    """

    def __init__(
        self,
        variant: Variant,
        threads: int,
        first_core: int = 0,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.python = python
        self.environment = {"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ, **(environment or {})}
        self.request = {
            "first_core": first_core,
            "side": variant.side,
            "task": variant.task,
            "options": variant.options,
            "threads": threads,
        }
        self.imported = 0.0

    @classmethod
    def preparing(cls, task: str, options: dict[str, Any]) -> Worker:
        """Return a worker whose preparation is all that is wanted of it."""
        return cls(Variant(task, "keras", task, options), os.cpu_count() or 1)

    def __enter__(self) -> Self:
        """Start the process and wait until the variant is prepared."""
        threads = str(self.request["threads"])
        paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        try:
            self.process = subprocess.Popen(
                [self.python, str(HERE / "worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
                env={
                    **self.environment,
                    "OMP_NUM_THREADS": threads,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                },
            )
        except OSError:  # no such interpreter
            self.log.close()
            raise
        try:
            self.imported = self._ask(**self.request)["imported"]
        except WorkerFailed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.log.close()

    def run(self, seconds: float, drain: int = 0) -> list[list[float]]:
        """Return wall and CPU seconds of each step in about `seconds`, at least of one.

        Args:
            seconds: no step begins after these.
            drain: steps before the first that counts.
        """
        steps: list[list[float]] = self._ask(seconds=seconds, drain=drain)["steps"]
        return steps

    def stop(self) -> dict[str, Any]:
        """Return peak memory, versions and what the side says of its device; the process ends."""
        return self._ask(stop=True)

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
            line = self.process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            tail = self.log.read().strip().splitlines()[-3:]
            raise WorkerFailed(f"exit code {code}: " + " | ".join(tail))
        answer: dict[str, Any] = json.loads(line)
        return answer
