"""The angular head: class centres on the unit sphere."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_sphereface.layers.compile_checks import refuse_misuse
from tf_sphereface.layers.loss_state import LossState
from tf_sphereface.layers.pixel_checks import refuse_raw_pixels
from tf_sphereface.losses import head_output, sphereface2_bias
from tf_sphereface.utils.checks import check_integer, error

SQUARED_NORM_FLOOR = 1e-12  # of embeddings; 1e-24 gave gradients of 4e11
SQUARED_CENTER_FLOOR = 1e-10  # a scale of 64 multiplies the gradient at a zero centre


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
    either: see `losses.head_output`.

    Args:
        num_classes: number of class centres, >= 1.
        kernel_initializer: default `VarianceScaling(1, "fan_in", "uniform")`, the paper's.
        kernel_regularizer: optional. Prefer weight decay in the optimizer (`optimizers`), which
            stays out of the reported loss.
        kernel_constraint: optional, such as `keras.constraints.UnitNorm(axis=0)`.
        shared_bias: for `SphereFace2Loss` alone, which needs it: the first value of a trainable
            scalar that all classes share, or `"sphereface2"` for that loss's own first value
            (`losses.sphereface2_bias(num_classes)`). None (default): no bias.
        centers_per_class: K, >= 1. Default 1. With more, a class's cosine is that of the nearest of
            its K centres (sub-center ArcFace): a person's wrong or odd images find a centre of
            their own. It goes with every loss. A step takes K tables of logits.
        **kwargs: `name`, `trainable`. A `dtype` is accepted and has no effect: see above.

    Input shape: `(batch, embedding_dim)`, any floating dtype.

    Output shape: `(batch, num_classes + 1)`, float32; with a shared bias `num_classes + 2`.

    Raises:
        ValueError: `num_classes` is not a positive integer, or `shared_bias` no number; the input
            is not a batch of vectors; at the call, the model was compiled with a stock loss, with a
            loss that needs a shared bias where there is none (or the reverse), or with
            `jit_compile=True` under a strategy with several replicas (use `FaceClassifier` there).

    The kernel is `(embedding_dim, num_classes * centers_per_class)`: the centres of class j are its
    columns j K to j K + K - 1.

    Source: CVPR 2017, eq. 4 (modified softmax). Several centres: Deng, Guo, Liu, Gong, Zafeiriou,
    "Sub-center ArcFace", ECCV 2020, eq. 3.

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
        *,
        centers_per_class: int = 1,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_classes = check_integer("num_classes", num_classes, 1)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.shared_bias = check_shared_bias(shared_bias)
        self.centers_per_class = check_integer("centers_per_class", centers_per_class, 1)
        self.loss_state = LossState()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel, `(embedding_dim, num_classes * centers_per_class)`."""
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                "AngularDense expects embeddings of shape (batch, embedding_dim) with a known "
                f"embedding_dim. Received: input_shape={input_shape}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.num_classes * self.centers_per_class),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.shared_bias is not None:
            first = self.shared_bias
            if isinstance(first, str):
                first = sphereface2_bias(self.num_classes)
            self.bias = self.add_weight(  # not "bias": it decays and learns like a kernel
                name="shared_bias", shape=(), initializer=keras.initializers.Constant(first)
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `||x|| cos(theta_j)`, the shared bias if there is one, and `-||x||`."""
        refuse_misuse(self)
        refuse_raw_pixels(inputs)
        self.loss_state.serve(self, training)
        embedding = ops.cast(inputs, "float32")
        logits = ops.matmul(embedding, unit_columns(self.kernel))
        if self.centers_per_class > 1:
            each = (-1, self.num_classes, self.centers_per_class)
            logits = ops.max(ops.reshape(logits, each), axis=-1)
        return head_output.join(logits, row_norms(embedding), self.bias)

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
            "centers_per_class": self.centers_per_class,
        }


def check_shared_bias(value: float | str | None) -> float | str | None:
    """Return the argument `shared_bias`, or raise ValueError."""
    if value is None or value == "sphereface2":
        return value
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise error("shared_bias", "be a number, 'sphereface2' or None", value)
    return float(value)


def unit_columns(kernel: Any, axis: int = 0) -> Any:
    """Scale each column to length 1 (with `axis=1` each row); a shorter one than 1e-5 by 1e5.

    The floor keeps the gradient at a zero centre below `1e5 * ||x||`.
    """
    squares = ops.sum(ops.square(kernel), axis=axis, keepdims=True)
    return kernel * ops.rsqrt(ops.maximum(squares, SQUARED_CENTER_FLOOR))


def row_norms(embedding: Any) -> Any:
    """Return the length of each row, `(batch, 1)`, at least 1e-6; the gradient at 0 is 0."""
    squares = ops.sum(ops.square(embedding), axis=-1, keepdims=True)
    return ops.sqrt(ops.maximum(squares, SQUARED_NORM_FLOOR))
