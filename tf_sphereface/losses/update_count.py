"""Where a loss reads the number of applied updates, and how a loaded loss is held or let go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_loading_quietly = False


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep loaded losses from warning that they are held: the caller binds them at once."""
    global _loading_quietly
    before, _loading_quietly = _loading_quietly, True
    try:
        yield
    finally:
        _loading_quietly = before


def is_loading_quietly() -> bool:
    """Whether the code runs inside `quiet_loading()`."""
    return _loading_quietly


def bind_step(model: keras.Model) -> keras.Model:
    """Let the lambda of a model's losses follow the model's own optimizer.

    For a stock Keras model that was loaded from a file: its loss is held at the lambda of the
    moment of saving. The optimizer's count of updates was saved too, so training goes on exactly
    there.

    Args:
        model: a compiled model with a loss of this library.

    Returns:
        The same model.

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
    """Return `step` if the number of updates can be read from it, or raise TypeError."""
    if step is None or isinstance(step, keras.optimizers.Optimizer | keras.Variable | tf.Variable):
        return step
    if isinstance(step, int | np.integer) and not isinstance(step, bool):
        return int(step)
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
    if isinstance(step, keras.optimizers.Optimizer):
        step = step.iterations
    elif callable(step) and not isinstance(step, keras.Variable | tf.Variable):
        return step()
    return tf.convert_to_tensor(step.value if isinstance(step, keras.Variable) else step)
