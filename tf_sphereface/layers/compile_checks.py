"""Checks of how a model with an angular head was compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tf_sphereface.losses.margin_loss import MarginLoss, wrong_head
from tf_sphereface.utils import keras_private

if TYPE_CHECKING:
    from tf_sphereface.layers.angular_dense import AngularDense


def refuse_misuse(layer: AngularDense) -> None:
    """Raise where the model that is being called was compiled in a way that cannot work."""
    model = keras_private.called_model(layer)
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
        return
    for loss in losses_at(model, layer):
        if is_stock_loss(loss):
            raise ValueError(
                f"AngularDense returns num_classes + 1 = {layer.num_classes + 1} columns (the "
                "last is -||x||), which a stock Keras loss would take for classes. Compile with "
                "a loss of tf_sphereface.losses, such as ASoftmaxLoss(margin=1) for the modified "
                f"softmax. Received: loss={loss!r}"
            )
        biased = layer.shared_bias is not None
        if isinstance(loss, MarginLoss) and loss.needs_shared_bias is not biased:
            raise ValueError(wrong_head(loss))
    strategy = tf.distribute.get_strategy()
    if model.jit_compile and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "A stock Keras model cannot be trained with jit_compile=True under "
            f"{type(strategy).__name__}: Keras would compile the variables of "
            "all replicas into one XLA function. Use tf_sphereface.FaceClassifier, which compiles "
            "inside each replica, or jit_compile=False."
        )


def losses_at(model: keras.Model, layer: keras.layers.Layer) -> list[Any]:
    """Return the losses that a compiled model applies to a layer's output."""
    loss = getattr(model, "loss", None)
    if loss is None:
        return []
    if not isinstance(loss, dict | list | tuple):
        return [loss]
    outputs = dict(enumerate(getattr(model, "outputs", [])))
    if isinstance(loss, dict):
        named = keras_private.named_outputs(model)
        flat = zip(getattr(model, "output_names", []), outputs.values(), strict=False)
        outputs = named if isinstance(named, dict) else dict(flat)
    else:
        loss = dict(enumerate(loss))
    ours = [key for key, output in outputs.items() if keras_private.maker_of(output) is layer]
    return [loss[key] for key in ours if key in loss]


def is_stock_loss(loss: Any) -> bool:
    """Tell whether a loss comes with Keras: a string, a function, a class or a subclass of one."""
    if isinstance(loss, str):
        return not loss.startswith("tf_sphereface>")
    if hasattr(loss, "__qualname__"):
        return getattr(loss, "__module__", "").startswith(("keras.", "tensorflow."))
    bases = (keras.losses.Loss, *keras.losses.Loss.__mro__)
    return any(
        kind.__module__.startswith(("keras.", "tensorflow.")) and kind not in bases
        for kind in type(loss).__mro__
        if kind.__name__ != "LossFunctionWrapper" or kind is type(loss)
    )
