"""Callbacks of a run that can be resumed: its log and its checkpoints; and stopping it cleanly."""

from __future__ import annotations

import contextlib
import csv
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.training.checkpoint import checkpoint_path, prune, save_checkpoint
from tf_sphereface.training.fitting import is_chief
from tf_sphereface.training.solvers import rate_function
from tf_sphereface.training.weight_average import WeightAverage
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.weight_samples import are_unchanged, some_weights

logger = logging.getLogger("tf_sphereface")
CHECKPOINT_STEPS = 500
CHECKPOINT_SECONDS = 120.0
CHECKPOINT_SHARE = 0.1  # of the time at most, where nothing is asked for
BEST = "verification_accuracy"


class RunStopped(KeyboardInterrupt):
    """A run ended because it was asked to; the text says which state is kept."""


class RunLog(keras.callbacks.Callback):
    """Keep a row for each epoch in `rows`, and write them to a CSV file, atomically.

    A full disk costs a warning. `rows` and `seconds` go on from those of the epochs before.
    `diverged` is whether the last epoch's loss is not finite, `mended` whether its row has got
    figures after it was written: where a callback ended the run, it is verified then.
    """

    def __init__(
        self,
        path: Path,
        rows: Sequence[dict[str, Any]] = (),
        seconds: float = 0.0,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        super().__init__()
        self.path = path
        self.rows = list(rows)
        self.diverged = self.mended = False
        self.warn = warn
        self._weights: list[Any] = []  # some, as the last epoch left them
        self._before = seconds
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the run was begun, without the time between a stop and its resume."""
        return self._before + time.monotonic() - self._begun

    def is_of_the_weights(self) -> bool:
        """Tell whether the model has the weights that the last row is of, as far as is known."""
        return are_unchanged(self._weights)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best verification accuracy, the earliest of equals.

        A row whose epoch was not verified holds NaN.
        """
        scored = [row for row in self.rows if np.isfinite(float(row.get(BEST, np.nan)))]
        return max(scored, key=lambda row: float(row[BEST]), default=None)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the epoch's row."""
        values = {key: float(value) for key, value in (logs or {}).items()}
        done = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        rate = rate_function(self.model.optimizer)(max(done - 1, 0))  # of the last update
        row = {"epoch": epoch + 1, **values, "learning_rate": rate}
        self.rows.append({**row, "seconds": round(self.seconds, 1)})
        self.diverged = not np.isfinite(values.get("loss", 0.0))
        self._weights = some_weights(self.model)
        self._write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the figures that the last epoch got when training had ended."""
        last = self.rows[-1] if self.rows else {}
        late = {
            name: float(value)
            for name, value in (logs or {}).items()
            if np.isnan(last.get(name, 0.0)) and np.isfinite(float(value))
        }
        self.mended = bool(late)
        if late:
            last.update(late)
            self._write()

    def _write(self) -> None:
        if not is_chief(self.model):
            return
        try:
            with atomic_path(self.path) as temporary, temporary.open("w", newline="") as handle:
                names = dict.fromkeys(name for row in self.rows for name in row)
                writer = csv.DictWriter(handle, fieldnames=list(names))
                writer.writeheader()
                writer.writerows(self.rows)
        except OSError as error:
            self.warn(f"{self.path} could not be written: {error}")


class Checkpoints(keras.callbacks.Callback):
    """Keep the state of the run: at each epoch's end, between, and when `stop` answers True.

    It comes last in the list of callbacks, so that the epoch's row is in the state. `every` and
    `keep` are those of `Run.fit` (several processes must agree: there None is 500 updates);
    `step` updates were done before; `facts` goes into each checkpoint's info, and what `average`
    holds beside the weights.
    """

    def __init__(
        self,
        folder: Path,
        log: RunLog,
        *,
        step: int,
        steps_per_epoch: int,
        every: int | None,
        keep: int,
        facts: dict[str, Any],
        stop: Callable[[], bool],
        average: WeightAverage | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.log = log
        self.step = step
        self.saved: int | None = step or None
        self._steps_per_epoch = steps_per_epoch
        self._every = every
        self._keep = keep
        self._facts = facts
        self._stop = stop
        self._average = average
        self._last = (step, time.monotonic())
        self._took = 0.0  # seconds, the last one

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save where it is time; the epoch's last batch waits for the epoch's end.

        Saving sums the metrics over all workers. One that is asked to stop must not begin it: the
        others go on with their step, and both would wait for ever.
        """
        self.step += 1
        if not self.step % self._steps_per_epoch:
            return
        if self._due() or (self._stop() and self._alone()):
            self._save(logs)
        self._leave()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        self._save(logs)
        self._leave()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save once more where the last epoch's row was mended."""
        if self.log.mended:
            self._save(logs)

    def _due(self) -> bool:
        step, moment = self._last
        if self._every is not None:
            return self.step - step >= self._every
        if not self._alone():
            return self.step - step >= CHECKPOINT_STEPS
        seconds = time.monotonic() - moment
        often = seconds >= CHECKPOINT_SECONDS or self.step - step >= CHECKPOINT_STEPS
        return often and seconds * CHECKPOINT_SHARE >= self._took

    def _alone(self) -> bool:
        """Whether no other process must do as this one does."""
        strategy = self.model.distribute_strategy
        return not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def _save(self, logs: dict[str, Any] | None) -> None:
        """Write the state, or warn and let the training go on with the older ones."""
        begun = time.monotonic()
        self._last = (self.step, begun)
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            return
        progress = {"step": self.step, "history": self.log.rows, "seconds": self.log.seconds}
        info = {**progress, **self._facts}
        chief = is_chief(self.model)
        try:
            save_checkpoint(
                checkpoint_path(self.folder, self.step),
                self.model,
                info,
                averages=() if self._average is None else self._average.arrays(),
                write=chief,
            )
        except (OSError, ValueError) as error:
            kept = "none so far" if self.saved is None else f"of step {self.saved}"
            self.log.warn(
                f"no checkpoint at step {self.step}: {error}; the last good one is {kept}"
            )
            return
        self.saved = self.step
        self._last = (self.step, time.monotonic())
        self._took = self._last[1] - begun
        if chief:
            best = self.log.best
            also = [] if best is None else [best["epoch"] * self._steps_per_epoch]
            prune(self.folder, self._keep, also, newest=self.step)

    def _leave(self) -> None:
        if self._stop():
            where = "no state could be kept"
            if self.saved is not None:
                where = f"the state of step {self.saved} is kept"
            raise RunStopped(f"stopped after step {self.step}; {where}")


@contextlib.contextmanager
def deferred_stop(say: Callable[[str], None] = logger.warning) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a flag that is read between two steps.

    The second one interrupts at once. A SIGHUP that is ignored, as by nohup, stays so. Outside the
    main thread nothing is changed. Yields a function that tells whether the process was asked to
    stop; `say` is called when it is.

    Example:

    >>> with deferred_stop(say=print) as asked:
    ...     signal.raise_signal(signal.SIGTERM)  # as `kill` sends it
    ...     asked()
    finishing the step; once more to stop at once
    True
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("finishing the step; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    wanted = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # there is none on Windows
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        wanted.append(hang_up)
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
