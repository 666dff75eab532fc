"""Checks of how a model with an angular head was compiled."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tf_sphereface.losses.margin_loss import MarginLoss, wrong_head
from tf_sphereface.losses.update_count import other_optimizer
from tf_sphereface.utils import keras_private

if TYPE_CHECKING:
    from tf_sphereface.layers.angular_dense import AngularDense

RANKS = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)
ON_LOGITS = (
    keras.metrics.SparseCategoricalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)


def refuse_misuse(layer: AngularDense) -> None:
    """Raise where the model that is being called was compiled in a way that cannot work."""
    model = keras_private.called_model(layer)
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
        return
    for loss in losses_at(model, layer):
        if inspect.isclass(loss) and issubclass(loss, MarginLoss):
            raise ValueError(
                f"Compile with a loss, not with its class: loss={loss.__name__}(). "
                f"Received: loss={loss!r}"
            )
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
    for given in keras_private.compiled_metrics(model):
        one = len(getattr(model, "outputs", None) or [None]) == 1
        refuse_metrics(given if one else given_for(model, layer, given))
    if keras_private.is_trained(layer) and model.train_function is not None:  # in `fit`
        text = other_optimizer(model)
        if text is not None:
            raise ValueError(text)
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
    return given_for(model, layer, loss)


def given_for(model: keras.Model, layer: keras.layers.Layer, given: Any) -> list[Any]:
    """Return what a list or dict with an entry for each output has for a layer's output.

    Of a model that is no graph, whose outputs cannot be told apart, the one loss of this library.
    """
    if not getattr(model, "outputs", None):
        one = [each for each in keras.tree.flatten(given) if isinstance(each, MarginLoss)]
        return one if len(one) == 1 else []
    outputs = dict(enumerate(getattr(model, "outputs", [])))
    if isinstance(given, dict):
        named = keras_private.named_outputs(model)
        flat = zip(getattr(model, "output_names", []), outputs.values(), strict=False)
        outputs = named if isinstance(named, dict) else dict(flat)
    else:
        given = dict(enumerate(given))
    ours = [key for key, output in outputs.items() if _comes_from(output, layer)]
    return [given[key] for key in ours if key in given]


def _comes_from(output: Any, layer: keras.layers.Layer) -> bool:
    """Tell whether a symbolic tensor is what a layer returns, also out of a model inside."""
    maker = keras_private.maker_of(output)
    if maker is layer or maker is None:
        return maker is layer
    if isinstance(maker, keras.Model):
        inside = keras_private.output_inside(output)
        return inside is not None and _comes_from(inside, layer)
    as_it_is = isinstance(maker, keras.layers.Identity) or (
        isinstance(maker, keras.layers.Activation) and maker.activation is keras.activations.linear
    )
    return as_it_is and _comes_from(keras_private.input_of(output), layer)


def refuse_metrics(metrics: Any, head: str = "angular") -> None:
    """Raise ValueError where a metric of Keras would misread the output of a head.

    Args:
        metrics: a metric as `compile` takes it, or any structure of them.
        head: as in `FaceClassifier`; the softmax head has no further column.
    """
    for metric in keras.tree.flatten(metrics):
        if head == "softmax" and getattr(metric, "inputs", None) == "head":
            raise ValueError(
                f"The metric {metric.name!r} reads cosines from a head's output, and those of the "
                f"softmax head are none. Received: metric={metric!r}"
            )
        if metric is None or _reads_head(metric, head):
            continue
        name = metric if isinstance(metric, str) else getattr(metric, "name", None)
        if head == "softmax":
            what = "logits, one column for each class"
        else:
            what = "logits, and after the classes' columns a last one, -||x||, that is no class"
        raise ValueError(
            f"The metric {name or getattr(metric, '__name__', metric)!r} cannot read what the head "
            f"returns: {what}; and the labels are integers. Wrap it: tf_sphereface.metrics."
            "ClassMetric(metric, num_classes) hands it the classes alone, and probabilities and "
            'one-hot labels where it wants them. "accuracy", keras.metrics.'
            "SparseTopKCategoricalAccuracy and those of tf_sphereface.metrics go as they are. "
            f"Received: metric={metric!r}"
        )


def _reads_head(metric: Any, head: str) -> bool:
    """Tell whether a metric is right on a head's output, or somebody's own, who will know."""
    if isinstance(metric, str):
        if metric.lower() in ("accuracy", "acc"):
            return True
        try:
            metric = keras.metrics.get(metric)
        except ValueError:  # Keras will say so
            return True
    if inspect.isclass(metric) and issubclass(metric, keras.metrics.Metric):
        kind: Any = metric
        return kind in RANKS or not (_is_of_keras(kind) and _is_of_keras(kind.update_state))
    if isinstance(metric, ON_LOGITS) and metric.from_logits and head == "softmax":
        return True
    if isinstance(metric, keras.losses.Loss):
        return not is_stock_loss(metric)
    if isinstance(metric, keras.metrics.Metric):
        if not _is_of_keras(type(metric).update_state):
            return True
        metric = keras_private.metric_function(metric)
    # The last column is the smallest entry of its row: no rank of a class depends on it.
    ranks = ("sparse_categorical_accuracy", "sparse_top_k_categorical_accuracy")
    if metric is None:
        return False
    return not _is_of_keras(metric) or getattr(metric, "__name__", None) in ranks


def _is_of_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(("keras.", "tensorflow."))


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
