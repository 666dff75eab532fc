"""Keras callback that logs lambda and the effective margin in stock `fit`."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface import angular
from tf_sphereface.callbacks import diagnoses
from tf_sphereface.losses.update_count import other_optimizer, read_step, scheduled_losses
from tf_sphereface.utils.layer_checks import is_own_method
from tf_sphereface.utils.messages import SphereFaceWarning

_ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy")
_FIRST_BATCHES = 4
_TRAINED = 0.5  # accuracy that a new network does not have in its first batches
_MANY = 10  # classes


class AngularLogs(keras.callbacks.Callback):
    """Add lambda and the effective margin to the training logs of a stock Keras model.

    Each batch's and epoch's logs get `lambda`, the value that the last update used, and
    `effective_margin` (see `angular.effective_margin`). Validation logs are left alone. Put it
    before callbacks that write logs, such as `CSVLogger`. Of several losses with a lambda each has
    its columns, as `lambda_NAME` of the output's name. `FaceClassifier` logs both by itself; there
    this callback does nothing, unless its `train_step` is one's own. It warns where lambda has
    stood still for two epochs, or the whole run, while the model was updated; and where it begins
    anew in a model that is trained.

    Raises:
        ValueError: at the start of training, the model has no loss that follows a schedule, or its
            loss counts the updates of another optimizer.

    Example:

    >>> import numpy as np, tf_sphereface as sf
    >>> model = keras.Sequential([keras.Input((4,)), sf.layers.AngularDense(3)])
    >>> optimizer = keras.optimizers.SGD()
    >>> model.compile(optimizer, sf.losses.ASoftmaxLoss(step=optimizer))
    >>> fitted = model.fit(np.eye(4), np.arange(4) % 3, callbacks=[AngularLogs()], verbose=0)
    >>> round(fitted.history["lambda"][0], 2)  # 1000 / 1.12
    892.86
    """

    def __init__(self) -> None:
        super().__init__()
        self._losses: dict[str, Any] = {}  # end of the columns' names -> loss
        self._lambdas: dict[str, float] = {}
        self._updates: dict[str, int] = {}
        self._watch: LambdaWatch | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the loss."""
        self._losses, self._lambdas, self._updates = {}, {}, {}
        logs_it = getattr(self.model, "compiles_inside_replica", False)
        if logs_it and is_own_method(self.model, "train_step"):
            return
        scheduled = scheduled_losses(self.model)
        if not scheduled:
            raise ValueError(
                "AngularLogs needs a loss whose lambda follows a schedule, such as "
                "tf_sphereface.losses.ASoftmaxLoss(margin=4, step=optimizer). "
                f"Received: model.loss={getattr(self.model, 'loss', None)!r}"
            )
        text = other_optimizer(self.model)
        if text is not None:
            raise ValueError(text)
        self._losses = {"": scheduled[0]} if len(scheduled) == 1 else _named(self.model)
        self._watch = LambdaWatch(self.model)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the lambda that this batch will use."""
        for name, loss in self._losses.items():
            self._updates[name] = int(read_step(loss.step))
            self._lambdas[name] = float(loss.current_lambda())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the lambda that the last update used."""
        for name, loss in self._losses.items():
            now = int(read_step(loss.step))
            if now - self._updates[name] > 1:  # steps_per_execution: the last of several updates
                self._lambdas[name] = float(loss.annealing(now))
        self._add(logs)
        if self._watch is not None:
            self._warn(self._watch.began_anew(batch, logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the last update's lambda to the epoch's logs."""
        self._add(logs)
        self._look(at_end=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Look whether lambda has moved."""
        self._look(at_end=True)

    def _look(self, at_end: bool) -> None:
        losses = self._losses.values()
        held = any(isinstance(loss.step, int) for loss in losses)  # a number, on purpose
        if self._watch is None or held:
            return
        self._warn(self._watch.stood_still(at_end))

    def _warn(self, text: str | None) -> None:
        if text is not None:
            warnings.warn(text, SphereFaceWarning, stacklevel=3)
            self._watch = None

    def _add(self, logs: dict[str, Any] | None) -> None:
        if logs is None:
            return
        for name, value in self._lambdas.items():
            margin = angular.effective_margin(self._losses[name].margin, value)
            logs |= {f"lambda{name}": value, f"effective_margin{name}": float(margin)}


def _named(model: keras.Model) -> dict[str, Any]:
    """Return the losses with a lambda by their outputs' names, or by numbers: `_a`, `_b`."""
    given = model.loss
    if not isinstance(given, dict):
        flat = keras.tree.flatten(given)
        names = list(getattr(model, "output_names", None) or range(len(flat)))
        given = dict(zip(names, flat, strict=False))
    return {f"_{k}": loss for k, loss in given.items() if getattr(loss, "needs_step", False)}


class LambdaWatch:
    """Whether the lambda of a model's losses moves while the model is updated.

    What `losses.update_count.other_optimizer` cannot know: a callable or a variable of somebody's
    own. Only applied updates of the model's optimizer count, so neither gradient accumulation nor
    steps that overflowed raise an alarm; nor does a lambda at its minimum, which stays there.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._losses = scheduled_losses(model)
        self._updates = self._applied()
        self._counts = [int(read_step(loss.step)) for loss in self._losses]
        self._epochs = 0
        held = any(isinstance(loss.step, int) for loss in self._losses)
        self._fresh = not held and not self._updates and not any(self._counts)

    def began_anew(self, batch: int, logs: dict[str, Any]) -> str | None:
        """Judge the accuracy of the first batches under a count of updates that began at 0.

        That of a network which was trained before is high at once. Few classes are not judged.
        """
        if not self._fresh or batch + 1 < _FIRST_BATCHES:
            return None
        self._fresh = False
        if batch + 1 > 2 * _FIRST_BATCHES:  # many in one execution: it has learnt meanwhile
            return None
        accuracy = max((float(logs.get(name, 0.0)) for name in _ACCURACIES), default=0.0)
        classes = diagnoses.label_count(self._model)
        if accuracy < _TRAINED or classes is None or classes < _MANY:
            return None
        now = float(self._losses[0].current_lambda())
        return (
            f"lambda begins anew, at {now:.4g}, in a network that names {100 * accuracy:.0f} % of "
            "the first images' people already: the optimizer counts its updates from 0, and the "
            "margin is hardly felt for long. To fine-tune, take a loss without lambda "
            "(CosFaceLoss, --loss cosface). To go on where a script saved a file, load it without "
            "compile=False (a stock model then needs tf_sphereface.losses.bind_step(model)), or "
            "call model.optimizer.iterations.assign(count) before fit."
        )

    def stood_still(self, at_end: bool) -> str | None:
        """Judge after an epoch or at the end; a count of epochs moves once an epoch."""
        self._epochs += not at_end
        updates = self._applied() - self._updates
        if updates < 1 or not (at_end or self._epochs >= 2):
            return None
        for loss, count in zip(self._losses, self._counts, strict=True):
            now = float(loss.current_lambda())
            if int(read_step(loss.step)) == count and now > loss.annealing.minimum:
                return (
                    f"lambda stood still at {now:.4g} through {updates} updates of the model's "
                    f"optimizer: the `step` of the loss {loss.name!r} does not move with them. "
                    "tf_sphereface.losses.bind_step(model) lets it follow. "
                    f"Received: step={loss.step!r}"
                )
        return None

    def _applied(self) -> int:
        return int(tf.convert_to_tensor(self._model.optimizer.iterations))
