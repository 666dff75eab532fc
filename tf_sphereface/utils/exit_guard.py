"""Guard of Python functions that TensorFlow's own threads call, for the end of the process.

An endless dataset reads ahead, so its threads are inside Python, or wait to enter it, when a script
ends. Python then ends such threads, and C++ answers with `terminate called without an active
exception` or waits for them for ever. With the guard the last calls return at once, and the process
goes on to its end when no more come: TensorFlow refuses calls that come later by itself.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

QUIET = 0.1  # seconds without a call, after which the pipelines are taken for full
LONGEST = 5.0  # seconds that the end of a process is delayed at most

_ending = threading.Event()
_state = {"calls": 0, "active": 0}
_lock = threading.Lock()


def guarded(work: Callable[[], Result], at_the_end: Callable[[], Result]) -> Result:
    """Return what `work` returns, or, once the process ends, what `at_the_end` returns."""
    with _lock:
        _state["calls"] += 1
        _state["active"] += 1
    try:
        return at_the_end() if _ending.is_set() else work()
    finally:
        with _lock:
            _state["active"] -= 1


@atexit.register
def _wait_until_quiet() -> None:
    """Let the threads fill their pipelines with results that cost nothing, until none calls."""
    if not _state["calls"]:
        return
    _ending.set()
    end = time.monotonic() + LONGEST
    seen, since = -1, time.monotonic()
    while time.monotonic() < end:
        if _state["active"] or _state["calls"] != seen:
            seen, since = _state["calls"], time.monotonic()
        elif time.monotonic() - since >= QUIET:
            return
        time.sleep(0.005)
