"""A process that does one variant's work on request: started by `compare.py`, one JSON per line.

    {"side": "keras", "task": "head", "options": {...}, "threads": 2}   ->  {"imported": MB}
    {"seconds": 2.0}  ->  {"steps": [[wall seconds, CPU seconds], ...]}      any number of times
    {"stop": true}  ->  {"peak": MB, "versions": {...}}

TensorFlow and PyTorch never share a process: each keeps a pool of threads that would disturb the
other's. The threads are the same for both, and so are the cores.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from repeated import Seconds


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB (10^6 bytes).

    From `VmHWM`: `ru_maxrss` is inherited from the process that started this one. NaN where there
    is no `/proc`.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def bind_to_cores(first: int, threads: int) -> None:
    """Use `threads` of the cores that this process may use, from the `first` on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first : first + threads])


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the last."""

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    first = json.loads(requests.readline())
    bind_to_cores(first.get("first_core", 0), first["threads"])
    side = importlib.import_module(f"with_{first['side']}")
    side.use_threads(first["threads"])
    imported = peak_memory()
    step = getattr(side, first["task"])(**first["options"])
    answer(imported=imported)
    for line in requests:
        request = json.loads(line)
        if "stop" in request:
            break
        for _ in range(request.get("drain", 0)):
            step()
        steps: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < request["seconds"] or not steps:
            wall, cpu = time.perf_counter(), time.process_time()
            own = step()
            wall = own if isinstance(own, Seconds) else time.perf_counter() - wall
            steps.append((wall, time.process_time() - cpu))
        answer(steps=steps)
    device = side.device() if hasattr(side, "device") else {}
    answer(peak=peak_memory(), versions=side.versions(), **device)


if __name__ == "__main__":
    # Libraries print what they like; the answers have a channel of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, channel)
