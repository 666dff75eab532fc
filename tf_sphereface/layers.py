"""The angular head: class centres on the unit sphere."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_sphereface import head_outputs, losses
from tf_sphereface.distribution import replica_count

SQUARED_NORM_FLOOR = 1e-12  # of embeddings; 1e-24 gave gradients of 4e11
SQUARED_CENTRE_FLOOR = 1e-10  # a scale of 64 multiplies the gradient at a zero centre


@keras.saving.register_keras_serializable(package="tf_sphereface")
class AngularDense(keras.layers.Layer):
    """Logits `||x|| cos(theta_j)` between an embedding and unit class centres, and its norm.

    The kernel's columns are the class centres. They are normalised where they are used, so the
    scale of the kernel does not matter and plain optimizers work. There is no bias. Whatever the
    dtype policy, the layer computes in float32: norms and the cross-entropy over thousands of
    classes do not survive 16 bits.

    The output has one column more than there are classes: the last one is `-||x||`. It lets the
    losses of this library rebuild `cos(theta)` without labels as a model input, and it is never the
    largest entry, so `metrics=["accuracy"]` is right. A stock cross-entropy would take it for a
    class; it is refused. With a shared bias there is one more, which can never be the largest
    either: see `head_outputs`.

    Args:
        num_classes: number of class centres, >= 1.
        kernel_initializer: default `VarianceScaling(1, "fan_in", "uniform")`, the paper's.
        kernel_regularizer: optional. Prefer weight decay in the optimizer (`optimizers`), which
            stays out of the reported loss.
        kernel_constraint: optional, such as `keras.constraints.UnitNorm(axis=0)`.
        shared_bias: for `SphereFace2Loss` alone, which needs it: the first value of a trainable
            scalar that all classes share, or `"sphereface2"` for that loss's own first value
            (`losses.sphereface2_bias(num_classes)`). None (default): no bias.
        **kwargs: `name`, `trainable`. A `dtype` is accepted and has no effect: see above.

    Input shape: `(batch, embedding_dim)`, any floating dtype.

    Output shape: `(batch, num_classes + 1)`, float32; with a shared bias `num_classes + 2`.

    Raises:
        ValueError: `num_classes` is not a positive integer, or `shared_bias` no number; the input
            is not a batch of vectors; at the call, the model was compiled with a stock loss, with a
            loss that needs a shared bias where there is none (or the reverse), or with
            `jit_compile=True` under a strategy with several replicas (use `FaceClassifier` there).

    Source: CVPR 2017, eq. 4 (modified softmax).

    Example:

    >>> layer = AngularDense(10)
    >>> layer(keras.random.normal((2, 8))).shape
    TensorShape([2, 11])
    """

    def __init__(
        self,
        num_classes: int,
        kernel_initializer: Any = None,
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        shared_bias: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        whole = isinstance(num_classes, int | float | np.number) and num_classes == num_classes // 1
        if isinstance(num_classes, bool) or not whole or num_classes < 1:
            raise ValueError(
                "Argument `num_classes` must be a positive integer. "
                f"Received: num_classes={num_classes!r}"
            )
        self.num_classes = int(num_classes)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.shared_bias = check_shared_bias(shared_bias)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel, `(embedding_dim, num_classes)`."""
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                "AngularDense expects embeddings of shape (batch, embedding_dim) with a known "
                f"embedding_dim. Received: input_shape={input_shape}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.num_classes),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.shared_bias is not None:
            first = self.shared_bias
            if isinstance(first, str):
                first = losses.sphereface2_bias(self.num_classes)
            self.bias = self.add_weight(  # not "bias": it decays and learns like a kernel
                name="shared_bias", shape=(), initializer=keras.initializers.Constant(first)
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Any) -> Any:
        """Return `||x|| cos(theta_j)`, the shared bias if there is one, and `-||x||`."""
        refuse_misuse(self, self._get_call_context())
        embedding = ops.cast(inputs, "float32")
        logits = ops.matmul(embedding, unit_columns(self.kernel))
        return head_outputs.join(logits, row_norms(embedding), self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return `(batch, num_classes + 1)`, with a shared bias `num_classes + 2`."""
        return (input_shape[0], self.num_classes + (1 if self.shared_bias is None else 2))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "shared_bias": self.shared_bias,
        }


def check_shared_bias(value: float | str | None) -> float | str | None:
    """Return the argument `shared_bias`, or raise ValueError."""
    if value is None or value == "sphereface2":
        return value
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise ValueError(
            "Argument `shared_bias` must be a number, 'sphereface2' or None. "
            f"Received: shared_bias={value!r}"
        )
    return float(value)


def unit_columns(kernel: Any, axis: int = 0) -> Any:
    """Scale each column to length 1 (with `axis=1` each row).

    One that is shorter than 1e-5 is divided by 1e-5.

    The floor keeps the gradient at a zero centre below `1e5 * ||x||`.
    """
    squares = ops.sum(ops.square(kernel), axis=axis, keepdims=True)
    return kernel * ops.rsqrt(ops.maximum(squares, SQUARED_CENTRE_FLOOR))


def row_norms(embedding: Any) -> Any:
    """Return the length of each row, `(batch, 1)`, at least 1e-6; the gradient at 0 is 0."""
    squares = ops.sum(ops.square(embedding), axis=-1, keepdims=True)
    return ops.sqrt(ops.maximum(squares, SQUARED_NORM_FLOOR))


def refuse_misuse(layer: AngularDense, context: Any) -> None:
    """Raise where the model that is being called was compiled in a way that cannot work."""
    model = getattr(context, "entry_layer", None)
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
        if isinstance(loss, losses.MarginLoss) and loss.needs_shared_bias is not biased:
            raise ValueError(losses.wrong_head(loss))
    if model.jit_compile and replica_count() > 1:
        raise ValueError(
            "A stock Keras model cannot be trained with jit_compile=True under "
            f"{type(tf.distribute.get_strategy()).__name__}: Keras would compile the variables of "
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
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(loss, dict) and isinstance(structure, dict):
        chosen = [key for key, output in structure.items() if _made_by(output, layer)]
        return [loss[key] for key in chosen if key in loss]
    names = list(getattr(model, "output_names", []))
    outputs = list(getattr(model, "outputs", []))
    ours = [index for index, output in enumerate(outputs) if _made_by(output, layer)]
    if isinstance(loss, dict):
        return [loss[names[index]] for index in ours if names[index] in loss]
    return [loss[index] for index in ours if index < len(loss)]


def _made_by(output: Any, layer: keras.layers.Layer) -> bool:
    return getattr(getattr(output, "_keras_history", None), "operation", None) is layer


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
