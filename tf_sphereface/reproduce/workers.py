"""Processes for several arms at a time, each with its share of the cores.

A small network does not fill two cores: many of a step's operations are too short to be shared. Two
arms on a core each are done a tenth sooner than one after the other on both
(docs/results/benchmarks.md).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from tf_sphereface.reproduce.arm_training import Outcome
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.reproduce.faces import Faces
from tf_sphereface.utils import hardware

START: Final = "spawn"  # TensorFlow does not survive a fork
MOST = 4  # processes by default: each holds TensorFlow and the faces, some 2 GB
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
MOVED, DONE, FAILED = "moved", "done", "failed"

Moved = Callable[[Arm, int], None]
RunArm = Callable[..., Outcome]


def default_jobs() -> int:
    """Return how many arms run at a time: one with a GPU, else one a core, four at most."""
    return 1 if hardware.gpu_capabilities() else min(MOST, os.cpu_count() or 1)


def in_turn(
    arms: Sequence[Arm], faces: Faces, moved: Moved, run: RunArm
) -> Iterator[tuple[Arm, Outcome]]:
    """Run one arm after the other, here."""
    for arm in arms:
        yield arm, run(arm.recipe, faces, lambda steps, arm=arm: moved(arm, steps))


def at_once(
    arms: Sequence[Arm], faces: Faces, moved: Moved, run: RunArm, jobs: int
) -> Iterator[tuple[Arm, Outcome]]:
    """Run some arms at a time, started in this order; each is given back when it is done.

    Each process gets a copy of the faces, and imports `run` by its name. An arm that raises an
    error, or whose process ends, is a ChildProcessError here, and the others are stopped.
    """
    waiting, jobs = list(arms), min(jobs, len(arms))
    context = multiprocessing.get_context(START)
    processes: dict[Any, Any] = {}  # by the connection
    running: dict[Any, Arm] = {}

    def give(connection: Any) -> None:
        running.pop(connection, None)
        arm = waiting.pop(0) if waiting else None
        if arm is not None:
            running[connection] = arm
        with contextlib.suppress(ConnectionError):  # who has ended is found when it is waited for
            connection.send(arm)

    try:
        with _environment(max(1, (os.cpu_count() or 1) // jobs)):
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, run), daemon=True)
                process.start()
                theirs.close()  # so that ours ends when the process does
                processes[ours] = process
        for connection in processes:
            with contextlib.suppress(ConnectionError):
                connection.send(faces)  # as an argument, one start would wait for the other
            give(connection)
        while running:
            ready: list[Any] = wait(list(running))
            for connection in ready:
                arm, process = running[connection], processes[connection]
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionError):
                    process.join(10)
                    raise ChildProcessError(
                        f"the process of the arm {arm.name} ended with exit code "
                        f"{process.exitcode}: was there too little memory? Use fewer --jobs; what "
                        "is done is kept"
                    ) from None
                if kind == MOVED:
                    moved(arm, value)
                elif kind == DONE:
                    give(connection)
                    yield arm, value
                else:
                    raise ChildProcessError(f"the arm {arm.name} failed: {value}")
    finally:
        for connection, process in processes.items():
            connection.close()
            process.terminate()
            process.join()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Start processes with so many threads, unless the user has said how many."""
    before = {name: os.environ.get(name) for name in THREADS}
    for name in THREADS:
        os.environ.setdefault(name, str(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _work(connection: Connection, run: RunArm) -> None:
    """Run the arms that come through the connection after the faces, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody is there
        faces = connection.recv()
        while (arm := connection.recv()) is not None:
            try:
                outcome = run(arm.recipe, faces, lambda steps: connection.send((MOVED, steps)))
            except BrokenPipeError:
                raise
            except Exception as error:  # told to whoever waits for it
                connection.send((FAILED, f"{type(error).__name__}: {error}"))
            else:
                connection.send((DONE, outcome))


def _end_with_the_parent() -> None:
    """End this process when the one that started it ends, however it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
