"""Processes that warm up side by side on a card, as many as its memory holds, and time in turn."""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cases import Variant
from gpu_cases import TORCH, GpuCase
from process import Worker, WorkerFailed

SHARE = 0.8  # of the card's memory that the processes of a group may take together
NO_TORCH = "No module named 'torch'"


@dataclasses.dataclass
class Limits:
    """How long and how much.

    Attributes:
        minutes: of a part; what has not begun by then is named and not measured.
        warm: seconds in which a process must have done its first step.
        memory: of the card, 1e9 bytes.
        seconds: of a turn, about.
        rounds: turns.
        torch_python: PyTorch's interpreter; None: this one.
    """

    minutes: float = 4.0
    warm: float = 150.0
    memory: float = 16.0
    seconds: float = 1.0
    rounds: int = 3
    torch_python: str | None = None


@dataclasses.dataclass
class Result:
    """What was seen of a variant; `error` says why there is nothing."""

    case: GpuCase
    variant: Variant
    turns: list[float] = dataclasses.field(default_factory=list)
    first: float | None = None
    cached: float | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""


def measure(
    cases: Sequence[GpuCase], limits: Limits, keep: Callable[[list[Result]], None] | None = None
) -> list[Result]:
    """Measure a part: a result for each variant of each case, whatever fails.

    `keep` is called with all of them after each group: who stops the script loses one group.
    """
    end = time.monotonic() + 60 * limits.minutes
    results = [Result(case, variant) for case in cases for variant in case.variants]
    for group in groups(results, SHARE * limits.memory):
        if time.monotonic() >= end:
            for result in group:
                result.error = f"not measured: the {limits.minutes:g} minutes were over"
            continue
        _take_turns(group, limits, end)
        if keep is not None:
            keep(results)
    again = [r for r in results if r.variant.name in r.case.cached and not r.error]
    for group in groups(again, SHARE * limits.memory):
        if time.monotonic() < end:
            with ThreadPoolExecutor(len(group)) as pool:
                list(pool.map(lambda result: _start_again(result, limits, end), group))
    return results


def groups(results: Sequence[Result], memory: float) -> Iterator[list[Result]]:
    """Yield results in their order, as many at a time as fit into memory, at least one."""
    group: list[Result] = []
    for result in results:
        if group and sum(r.case.held for r in [*group, result]) > memory:
            yield group
            group = []
        group.append(result)
    if group:
        yield group


def _worker(variant: Variant, limits: Limits) -> Worker:
    cores = os.cpu_count() or 1
    if variant.side == TORCH and limits.torch_python:
        # The libraries of another TensorFlow's path are not PyTorch's.
        alone = {"LD_LIBRARY_PATH": ""}
        return Worker(variant, cores, environment=alone, python=limits.torch_python)
    return Worker(variant, cores)


class Deadline:
    """Ends a worker's process, if it has not answered in time; use it as a context manager."""

    def __init__(self, worker: Worker, end: float) -> None:
        self.worker, self.expired = worker, False
        self._wait(max(0.1, end - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        self.timer = threading.Timer(seconds, self._expire)
        self.timer.daemon = True

    def _expire(self) -> None:
        self.expired = True
        if hasattr(self.worker, "process"):
            self.worker.process.kill()
        else:  # its process is only just being started
            self._wait(0.1)
            self.timer.start()

    def __enter__(self) -> None:
        """Begin to count."""
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        """Let the process live."""
        self.timer.cancel()


def _first_step(result: Result, limits: Limits, end: float) -> tuple[Worker | None, float]:
    """Start a process and let it do its first step; return it and the step's seconds."""
    worker = _worker(result.variant, limits)
    allowed = min(limits.warm, max(0.1, end - time.monotonic()))
    deadline = Deadline(worker, time.monotonic() + allowed)
    try:
        with deadline:
            worker.__enter__()
            return worker, worker.run(0.0)[0][0]
    except WorkerFailed as error:
        text = f"no first step within {allowed:.0f} s" if deadline.expired else str(error)
        result.error = "PyTorch is not installed" if NO_TORCH in text else text
        worker.__exit__()
    except OSError as error:  # no such interpreter
        result.error = str(error)
    return None, 0.0


def _warm(result: Result, limits: Limits, end: float) -> Worker | None:
    worker, result.first = _first_step(result, limits, end)
    if worker is None:
        result.first = None
    _say(result, result.error or f"first step {result.first:.1f} s")
    return worker


def _take_turns(group: list[Result], limits: Limits, end: float) -> None:
    with ThreadPoolExecutor(len(group)) as pool:
        workers = list(pool.map(lambda result: _warm(result, limits, end), group))
    alive = [(r, w) for r, w in zip(group, workers, strict=True) if w is not None]
    try:
        for turn in range(limits.rounds):
            for result, worker in alive:
                if not result.error and (turn == 0 or time.monotonic() < end):
                    _one_turn(result, worker, limits, drain=int(turn == 0))
        for result, worker in alive:
            if not result.error:
                try:
                    result.facts = worker.stop()
                except WorkerFailed as error:
                    result.error = str(error)
    finally:
        for _, worker in alive:
            worker.__exit__()


def _one_turn(result: Result, worker: Worker, limits: Limits, drain: int) -> None:
    deadline = Deadline(worker, time.monotonic() + limits.warm)
    try:
        with deadline:
            steps = worker.run(limits.seconds, drain=drain)
        result.turns.append(statistics.median(wall for wall, _ in steps))
        _say(result, f"{1e3 * result.turns[-1]:.3g} ms")
    except WorkerFailed as error:
        result.error = f"a turn took {limits.warm:g} s" if deadline.expired else str(error)


def _start_again(result: Result, limits: Limits, end: float) -> None:
    """See the first step of a second process, for which the first has left what it compiled."""
    again = Result(result.case, result.variant)
    worker, seconds = _first_step(again, limits, end)
    if worker is not None:
        worker.__exit__()
        result.cached = seconds
        _say(result, f"first step of a second process {seconds:.1f} s")


def _say(result: Result, text: str) -> None:
    sys.stderr.write(f"{result.case.name}, {result.variant.name}: {text}\n")
