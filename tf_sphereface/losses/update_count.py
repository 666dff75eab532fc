"""The number of applied updates, as a loss reads it, and its binding to a model's optimizer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def bind_step(model: keras.Model) -> keras.Model:
    """Let the lambda of a model's losses follow the model's own optimizer.

    For a stock Keras model that was loaded from a file: its loss is held at the lambda of the
    moment of saving. The optimizer's count of updates was saved too, so training goes on exactly
    there. The same model is returned.

    Raises:
        ValueError: the model is not compiled, or has no loss that follows a schedule.

    Example (`my.keras` was saved by a stock model):

    ```python
    model = keras.models.load_model("my.keras")
    sf.losses.bind_step(model).fit(dataset)
    ```
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"bind_step expects a compiled model. Received: {model!r}")
    scheduled = scheduled_losses(model)
    if not scheduled:
        raise ValueError(
            "bind_step found no loss with a `step` in the model. "
            f"Received: model.loss={getattr(model, 'loss', None)!r}"
        )
    for loss in scheduled:
        loss.step = check_step(model.optimizer)
    model.train_function = None
    model.test_function = None
    return model


def scheduled_losses(model: keras.Model) -> list[Any]:
    """Return the losses of a compiled model that follow the number of updates."""
    return [
        loss
        for loss in keras.tree.flatten(getattr(model, "loss", None))
        if getattr(loss, "needs_step", False)
    ]


def check_step(step: Any) -> Any:
    """Return what `read_step` takes for the argument `step` of a loss, or raise TypeError.

    An optimizer becomes a function that reads its count: Keras looks for optimizers in the
    attributes of a loss, and would save it twice.
    """
    if isinstance(step, keras.optimizers.Optimizer):
        return lambda: tf.convert_to_tensor(step.iterations)
    if isinstance(step, int | np.integer) and not isinstance(step, bool):
        return int(step)
    if step is None or isinstance(step, keras.Variable | tf.Variable):
        return step
    if tf.is_tensor(step) or isinstance(step, np.ndarray):
        raise TypeError(
            "Argument `step` must not be a plain tensor: it would stay constant, and lambda with "
            "it (`optimizer.iterations` is one under gradient accumulation). Pass the optimizer "
            f"itself: step=optimizer. Received: step={step!r}"
        )
    if callable(step):
        return step
    raise TypeError(
        "Argument `step` must be an optimizer, a variable, an int or a callable. "
        f"Received: step={step!r}"
    )


def read_step(step: Any) -> Any:
    """Return the number of applied updates: an int or a scalar integer tensor."""
    if isinstance(step, int):
        return step
    if isinstance(step, keras.Variable | tf.Variable):
        return tf.convert_to_tensor(step)
    return step()
