"""Steps in a row, timed as one: a GPU works behind the program that feeds it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Seconds(float):
    """What a step took, where it has measured that itself."""


def repeated(
    step: Callable[[], object], wait: Callable[[object], object], count: int
) -> Callable[[], Seconds]:
    """Return a function that does `count` steps, waits, and returns the seconds of one.

    Its first call does one step alone: that is the first step, with all that is compiled in it.

    Args:
        step: starts a step, and returns what to wait for.
        wait: ends when the work behind a step's result is done.
        count: steps of a call.
    """
    first = True

    def run() -> Seconds:
        nonlocal first
        times = 1 if first else count
        first = False
        begin = time.perf_counter()
        for _ in range(times):
            result = step()
        wait(result)
        return Seconds((time.perf_counter() - begin) / times)

    return run
