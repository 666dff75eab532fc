"""The numbers that some losses keep from step to step, as weights of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.layers.compile_checks import losses_at
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.utils import keras_private


@keras.saving.register_keras_serializable(package="tf_sphereface")
class LossState(keras.layers.Layer):
    """Scalars that are not trained, such as the statistics of `AdaFaceLoss`; none until asked for.

    A head has one. In files the scalars stand under their names, so that a file with them and a
    model without them (or the reverse) go together.

    Attributes:
        in_training: whether the head's last call was one in training.

    Example:

    >>> state = LossState()
    >>> state.keep({"t": 0.5})
    >>> {name: float(v.value) for name, v in state.numbers.items()}
    {'t': 0.5}
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.in_training = False
        self.built = True

    @property
    def numbers(self) -> dict[str, Any]:
        """The variables by name."""
        return {variable.name: variable for variable in self.weights}

    def keep(self, first: Mapping[str, float]) -> None:
        """Make a variable for each name that has none."""
        missing = {name: value for name, value in first.items() if name not in self.numbers}
        with keras_private.unlocked(self), tf.init_scope():
            for name, value in sorted(missing.items()):  # as in a file, whatever loss asks
                self.add_weight(
                    name=name,
                    shape=(),
                    initializer=keras.initializers.Constant(value),
                    trainable=False,
                )

    def serve(self, head: keras.layers.Layer, training: bool | None) -> None:
        """Give the losses of the compiled stock model that calls `head` what they keep.

        Raises:
            ValueError: it cannot be told whether a call is one in training, or one loss object
                belongs to several outputs.
        """
        self.in_training = bool(training)
        model = keras_private.called_model(head)
        if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
            return
        for loss in losses_at(model, head):
            if isinstance(loss, MarginLoss) and loss.first_state:
                _check(model, loss)
                loss.bind_state(self)

    def save_own_variables(self, store: Any) -> None:
        """Save the scalars by name."""
        for name, variable in self.numbers.items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load the scalars that are in a file; those that are not stay as they are."""
        values = {name: float(np.asarray(store[name])) for name in list(store.keys())}
        self.keep(values)
        for name, value in values.items():
            self.numbers[name].assign(value)


def _check(model: keras.Model, loss: MarginLoss) -> None:
    kind = type(loss).__name__
    if not keras_private.takes_training(model):
        raise ValueError(
            f"{kind} keeps numbers that move in training alone, and the `call` of "
            f"{type(model).__name__} has no argument `training`: give it one, and Keras says there "
            "whether a call is one in training."
        )
    everywhere = getattr(model, "loss", None)
    several = len(getattr(model, "outputs", None) or [None]) > 1
    shared = everywhere is loss or sum(v is loss for v in keras.tree.flatten(everywhere)) > 1
    if several and shared:
        raise ValueError(
            f"{kind} keeps numbers for one head: give each output a loss object of its own. "
            f"Received: loss={everywhere!r}"
        )
