"""Keras callback that logs lambda and the effective margin in stock `fit`."""

from __future__ import annotations

from typing import Any

import keras

from tf_sphereface import angular
from tf_sphereface.losses.update_count import read_step, scheduled_losses


class AngularLogs(keras.callbacks.Callback):
    """Add lambda and the effective margin to the training logs of a stock Keras model.

    Each batch's and epoch's logs get `lambda`, the value that the last update used, and
    `effective_margin` (see `angular.effective_margin`). Validation logs are left alone. Put it
    before callbacks that write logs, such as `CSVLogger`. `FaceClassifier` logs both by itself;
    there this callback does nothing.

    Raises:
        ValueError: at the start of training, the model has no loss that follows a schedule.

    Example:

    ```python
    model.fit(dataset, callbacks=[sf.callbacks.AngularLogs()])
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss: Any = None
        self._lambda: float | None = None
        self._updates = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the loss."""
        self._loss = None
        if getattr(self.model, "compiles_inside_replica", False):
            return
        scheduled = scheduled_losses(self.model)
        if not scheduled:
            raise ValueError(
                "AngularLogs needs a loss whose lambda follows a schedule, such as "
                "tf_sphereface.losses.ASoftmaxLoss(margin=4, step=optimizer). "
                f"Received: model.loss={getattr(self.model, 'loss', None)!r}"
            )
        self._loss = scheduled[0]

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the lambda that this batch will use."""
        if self._loss is not None:
            self._updates = int(read_step(self._loss.step))
            self._lambda = float(self._loss.current_lambda())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the lambda that the last update used."""
        if self._loss is None:
            return
        applied = int(read_step(self._loss.step)) - self._updates
        if applied > 1:  # steps_per_execution: the last of several updates
            self._lambda = float(self._loss.annealing(self._updates + applied))
        self._add(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the last update's lambda to the epoch's logs."""
        self._add(logs)

    def _add(self, logs: dict[str, Any] | None) -> None:
        if logs is not None and self._loss is not None and self._lambda is not None:
            logs["lambda"] = self._lambda
            logs["effective_margin"] = float(
                angular.effective_margin(self._loss.margin, self._lambda)
            )
