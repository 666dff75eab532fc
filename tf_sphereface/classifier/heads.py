"""Which head a classifier has, and which loss belongs to it."""

from __future__ import annotations

import copy
from typing import Any

import keras

from tf_sphereface import losses
from tf_sphereface.layers import released_gradient
from tf_sphereface.layers.angular_dense import AngularDense

HEADS = ("angular", "softmax", "sphereface2")


def make_head(head: str, num_classes: int, gradient: str) -> keras.layers.Layer:
    """Return a head of all classes, not built yet."""
    if head != "softmax":
        constraint = released_gradient.unit_constraint() if gradient == "caffe" else None
        bias = "sphereface2" if head == "sphereface2" else None
        return AngularDense(
            num_classes, kernel_constraint=constraint, shared_bias=bias, name="head"
        )
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
    return keras.layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name="head"
    )


def loss_for_head(head: str, loss: Any) -> Any:
    """Return the loss to compile with, a copy, or raise where it does not fit the head."""
    if head == "softmax":
        if loss is None:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if isinstance(loss, losses.MarginLoss):
            raise ValueError(
                'A loss on unit class centres needs head="angular" (SphereFace2Loss: '
                'head="sphereface2"); this model has '
                f'head="softmax". Received: loss={loss!r}'
            )
        if getattr(loss, "from_logits", True) is False or isinstance(loss, str):
            raise ValueError(
                "The softmax head returns logits. Pass "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or no loss. "
                f"Received: loss={loss!r}"
            )
        return loss
    if loss is None:
        return losses.SphereFace2Loss() if head == "sphereface2" else losses.ASoftmaxLoss()
    if not isinstance(loss, losses.MarginLoss):
        raise ValueError(
            f'head="{head}" needs a loss of tf_sphereface.losses, such as ASoftmaxLoss; for a '
            f'stock cross-entropy use head="softmax". Received: loss={loss!r}'
        )
    if loss.needs_shared_bias is not (head == "sphereface2"):
        raise ValueError(losses.wrong_head(loss))
    return copy.copy(loss)
