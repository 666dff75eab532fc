"""Training: `fit` over an endless stream from any step on, and recipes on faces in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.data.device_transfer import on_device
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.training.building import batches_of, build_classifier, embedder_of, kept_policy
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.weight_average import WeightAverage


def train(
    model: FaceClassifier,
    source: FaceSource | Callable[[int], Any],
    *,
    epochs: int,
    steps_per_epoch: int,
    initial_step: int = 0,
    metric_state: Sequence[NDArray[Any]] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Run `fit` over an endless stream of batches, from any step on.

    A run that starts inside an epoch is two calls of `fit`, but the callbacks see one: the first
    batch has the number that it has in its epoch, and the epoch's logs are over all of its batches.

    Args:
        model: compiled.
        source: the faces, or a function that gives the stream of batches from a step on (0 is the
            start of the run), so that a resumed run sees the batches that it would have seen.
        epochs: number of the last epoch.
        steps_per_epoch: updates in an epoch.
        initial_step: updates that were done before.
        metric_state: values of `model.metrics_variables` after these updates, all sums; used where
            `initial_step` lies inside an epoch.
        callbacks: as in `fit`.

    Returns:
        The history: a list for each logged name.

    Raises:
        ValueError: `metric_state` does not fit the model's metrics.

    Example:

    >>> from tf_sphereface import FaceClassifier, data
    >>> backbone = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> model = FaceClassifier(backbone, num_classes=2)
    >>> model.compile("sgd")
    >>> source = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24), batch_size=4)
    >>> len(train(model, source, epochs=2, steps_per_epoch=1)["loss"])
    2
    """
    stream: Any = source
    if isinstance(source, FaceSource):
        stream = functools.partial(source.stream, strategy=model.distribute_strategy)
    epoch, offset = divmod(initial_step, steps_per_epoch)
    state = list(metric_state) if offset else []
    run = _WholeRun(list(callbacks), model, epochs, steps_per_epoch, offset, state)
    spans = [(epoch, epoch + 1, steps_per_epoch - offset)] if offset else []
    spans.append((epoch + bool(offset), epochs, steps_per_epoch))
    run.begin()
    for first, last, steps in spans:
        if first >= last or run.stopped:
            continue
        model.fit(
            on_device(
                stream(first * steps_per_epoch + (steps_per_epoch - steps)),
                model.distribute_strategy,
            ),
            epochs=last,
            initial_epoch=first,
            steps_per_epoch=steps,
            callbacks=run,
            shuffle=False,
            verbose=0,
        )
        run.stopped = model.stop_training
    run.end()
    return {key: [float(v) for v in values] for key, values in run.history.history.items()}


def train_recipe(
    recipe: Recipe,
    faces: tuple[NDArray[Any], NDArray[Any]],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train a recipe on faces in memory, from the first update to the last.

    `faces` are uint8 RGB images (n, height, width, 3) of the recipe's size, and labels from 0,
    (n,). Returns the network in float32, and the history: a list for each logged name.

    Example:

    >>> import dataclasses
    >>> from tf_sphereface import data
    >>> from tf_sphereface.training.presets import preset
    >>> recipe = dataclasses.replace(preset("quick"), epochs=1, batch_size=4, embedding_dim=8)
    >>> network, history = train_recipe(recipe, data.synthetic.training_set(2, 2, size=(56, 48)))
    >>> network.output_shape, len(history["loss"])
    ((None, 8), 1)
    """
    source = batches_of(recipe, FaceSource(faces, image_size=recipe.input_size))
    steps = source.steps_per_epoch
    with kept_policy():
        model = build_classifier(recipe, source.num_classes, steps)
        average = WeightAverage(model, recipe.ema) if recipe.ema else None
        averaging = [] if average is None else [average]
        stoppers = [*averaging, *callbacks, keras.callbacks.TerminateOnNaN()]
        history = train(
            model, source, epochs=recipe.epochs, steps_per_epoch=steps, callbacks=stoppers
        )
    weights = None if average is None else average.arrays()
    return embedder_of(model, recipe, weights=weights), history


class _WholeRun(keras.callbacks.CallbackList):
    """One run in the eyes of its callbacks, however often `fit` is called."""

    def __init__(
        self,
        callbacks: list[keras.callbacks.Callback],
        model: FaceClassifier,
        epochs: int,
        steps: int,
        offset: int,
        metric_state: list[NDArray[Any]],
    ) -> None:
        self.history = keras.callbacks.History()
        super().__init__([*callbacks, self.history], model=model, epochs=epochs, steps=steps)
        self.offset = offset
        self.metric_state = metric_state
        self.stopped = False
        self._logs: dict[str, Any] | None = None

    def begin(self) -> None:
        """Begin the run."""
        super().on_train_begin()

    def end(self) -> None:
        """End the run."""
        super().on_train_end(self._logs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Wait for `begin`."""

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keep the logs for `end`."""
        self._logs = logs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the sums of the whole epoch, and count the next one's batches from 0."""
        if self.offset and logs is not None:  # if one batch was left, `fit` has that one's logs
            logs.update(self._sums())
        self.offset = 0
        super().on_epoch_end(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count from the start of the epoch."""
        super().on_train_batch_begin(batch + self.offset, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count from the start of the epoch, and add what the epoch had gathered before."""
        if self.metric_state:
            logs = {**(logs or {}), **self._with_earlier_sums()}
        super().on_train_batch_end(batch + self.offset, logs)

    def _with_earlier_sums(self) -> dict[str, Any]:
        """Add the earlier sums to those of the first batch; return the metrics.

        Not before that batch: `fit` resets the metrics when it begins an epoch, and Keras makes
        those of `compile` in the first step. The sum is the one that the step itself would make.
        """
        variables = self.model.metrics_variables
        if len(variables) != len(self.metric_state):
            raise ValueError(
                f"metric_state must hold {len(variables)} values, one for each metric variable. "
                f"Received: {len(self.metric_state)}"
            )
        for variable, value in zip(variables, self.metric_state, strict=True):
            variable.assign(tf.convert_to_tensor(variable.value) + value)
        self.metric_state = []
        return self._sums()

    def _sums(self) -> dict[str, Any]:
        """Return the metrics as they stand, under the names that the step's logs give them."""
        return self.model.training_names(dict(self.model.get_metrics_result()))


def is_chief(model: keras.Model) -> bool:
    """Whether this process writes the run's files: the one process, or the first of several."""
    return bool(model.distribute_strategy.extended.should_checkpoint)
