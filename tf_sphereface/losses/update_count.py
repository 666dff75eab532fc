"""The number of applied updates, as a loss reads it, and its binding to a model's optimizer."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.utils import keras_private


class OptimizerCount:
    """The number of updates that an optimizer has applied, read at each call.

    A loss holds this and not the optimizer: Keras looks for optimizers in the attributes of a
    loss, and would save it twice. It does not look in here.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self) -> Any:
        return tf.convert_to_tensor(self.optimizer.iterations)


def bind_step(model: keras.Model) -> keras.Model:
    """Let the lambda of a model's losses follow the model's own optimizer.

    For a stock Keras model that was loaded from a file, or compiled anew with another optimizer: a
    loaded loss is held at the lambda of the moment of saving, an old one follows the old optimizer.
    lambda goes on from the optimizer's own count of updates. That of a loaded optimizer was saved,
    so training goes on exactly there; a new optimizer begins at 0, and lambda at its base.
    The same model is returned.

    Raises:
        ValueError: the model is not compiled, or has no loss that follows a schedule.

    Example:

    >>> import tf_sphereface as sf
    >>> model = keras.Sequential([keras.Input((4,)), sf.layers.AngularDense(3)])
    >>> model.compile(keras.optimizers.SGD(), sf.losses.ASoftmaxLoss())
    >>> _ = bind_step(model).optimizer.iterations.assign(100)
    >>> int(model.loss.step())
    100
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
        loss.follow(model.optimizer)
    model.train_function = None
    model.test_function = None
    return model


def scheduled_losses(model: keras.Model) -> list[Any]:
    """Return the losses of a compiled model that follow the number of updates."""
    return [
        loss
        for loss in keras.tree.flatten(getattr(model, "loss", None))
        if not inspect.isclass(loss) and getattr(loss, "needs_step", False)
    ]


def other_optimizer(model: keras.Model) -> str | None:
    """Say that a loss counts the updates of another optimizer than the model's; else None.

    With a wrapper, such as `LossScaleOptimizer`, the optimizer inside is the model's too. Nothing
    is known of a callable or of a variable that belongs to no optimizer.
    """
    own = getattr(model, "optimizer", None)
    if own is None:
        return None
    optimizers = keras_private.optimizers_in(own)
    if any(hasattr(part, "optimizers") and not part.built for part in optimizers):
        return None  # a MultiOptimizer that has not yet asked its function for its parts
    counts = [keras_private.micro_steps(optimizer) for optimizer in optimizers]
    for loss in scheduled_losses(model):
        step = loss.step
        if isinstance(step, OptimizerCount):
            theirs = keras_private.optimizers_in(step.optimizer)
            foreign = not any(a is b for a in theirs for b in optimizers)
            name = step.optimizer.name
        else:
            foreign = keras_private.counts_updates(step) and all(step is not c for c in counts)
            name = str(getattr(step, "path", "")).split("/")[0]
        if foreign:
            return (
                f"The loss {loss.name!r} counts the updates of another optimizer ({name}) than the "
                f"one that trains this model ({own.name}), so lambda would stand still. Call "
                "tf_sphereface.losses.bind_step(model) after compile: lambda then follows the "
                "model's optimizer, from its own count of updates on. Or give each compile a new "
                "loss, ASoftmaxLoss(..., step=optimizer). To hold lambda on purpose, pass a number."
            )
    return None


def check_step(step: Any) -> Any:
    """Return what `read_step` takes for the argument `step` of a loss, or raise TypeError.

    An optimizer becomes an `OptimizerCount`.
    """
    if isinstance(step, keras.optimizers.Optimizer):
        return OptimizerCount(step)
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
