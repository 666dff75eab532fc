"""How long training waits for its batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

logger = logging.getLogger("tf_sphereface")

BOUND = 0.1  # share of the time from which on the data is what bounds the training
EVERY = 8  # on a GPU one step in so many is measured: its two neighbours do not overlap then
FIRST = 2  # steps of a run that are not measured: they trace, compile, and start the pipeline


class DataWait(keras.callbacks.Callback):
    """Measure which share of a step is spent waiting for its batch, and say so where it is much.

    The wait is the time from the end of the step before, on the device, to the moment at which the
    batch is there. On a CPU every step is measured; on a GPU, which computes while Python goes on,
    one step in 8, between two points at which Python waits for the device. At the end of an epoch
    in which 10 % or more were spent so, `say` is called with what could help. Where the device is
    what bounds the training nothing is said.

    Args:
        say: called with a line of text; the log `tf_sphereface` by default.

    Attributes:
        share: of the present epoch so far, 0 to 1; None before a step is measured.

    Raises:
        ValueError: (in `fit`) the model is no `FaceClassifier`, whose step notes when its batch is
            there.

    Example:

    >>> waits = DataWait(say=print)  # model.fit(dataset, callbacks=[waits])
    """

    def __init__(self, say: Callable[[str], None] = logger.warning) -> None:
        super().__init__()
        self.say = say
        self.share: float | None = None
        self._every = EVERY if tf.config.list_physical_devices("GPU") else 1
        self._steps = 0
        self._begun: float | None = None
        self._logs: dict[str, Any] = {}
        self._waited = self._total = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Require a model that notes when its batch is there."""
        if getattr(self.model, "batch_arrival", None) is None:
            raise ValueError(
                "DataWait needs a tf_sphereface.FaceClassifier, whose training step notes when its "
                f"batch is there. Received: model={type(self.model).__name__}"
            )
        self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure the epoch for itself."""
        self.share, self._waited, self._total = None, 0.0, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to wait for the batch, once the device has done the step before."""
        self._begun = None
        if self._steps >= FIRST and self._steps % self._every == 0:
            _finish(self._logs)
            self._begun = time.time()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the step to the epoch's sums."""
        self._steps += 1
        self._logs = logs or {}
        if self._begun is None:
            return
        _finish(self._logs)
        total = time.time() - self._begun
        if total <= 0:  # the clock was set back
            return
        self._waited += min(max(self.model.batch_arrival.seconds - self._begun, 0.0), total)
        self._total += total
        self.share = self._waited / self._total

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say it where the data is what bounds the training."""
        self._logs = {}
        if self.share is not None and self.share >= BOUND:
            self.say(
                f"data-bound: {self.share:.0%} of the time was spent waiting for batches. More CPU "
                "cores, a packed folder (tf_sphereface-data pack), faces kept in memory, or less "
                "augmentation would make it faster"
            )


def _finish(logs: dict[str, Any]) -> None:
    """Wait until the device has computed the step that these logs are of."""
    for value in logs.values():
        np.asarray(value)
