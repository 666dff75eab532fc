"""The gradient of the authors' released Caffe layer, which is not that of its loss.

The released `MarginInnerProduct` layer computes A-Softmax's logits exactly, and sends back
something else than their derivative:

1. The target's margin part of the x-gradient is scaled to length about 1: divided by
   `sqrt(cw^2 + cx^2)`, where `cw w + cx x` is the true derivative of `||x|| psi`.
2. The gradient of the class centres leaves the margin out: `x` times the softmax's gradient.
3. The centres are overwritten by unit vectors at each step, and their gradient is not projected to
   the sphere's tangent plane, as the exact gradient through a normalisation is.
4. lambda blends both parts: `lambda / (1 + lambda) w + 1 / (1 + lambda)` times the margin part.
5. No arccos is taken and nothing is floored. (Here norms are floored as in `AngularDense`.)

`FaceClassifier(..., gradient="caffe")` trains with it. It needs label, centres and embedding in one
place, so a stock Keras model cannot have it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import tensorflow as tf
from keras import ops

from tf_sphereface import angular
from tf_sphereface.layers.angular_dense import row_norms, unit_columns
from tf_sphereface.losses import ASoftmaxLoss, head_output
from tf_sphereface.losses.cross_entropy import target_entries, target_mask
from tf_sphereface.utils.checks import check_choice

Gradient = Literal["exact", "caffe"]
MARGINS = (2, 3, 4)


def angular_outputs(embedding: Any, kernel: Any, labels: Any, margin: int, lambda_: Any) -> Any:
    """Compute what `AngularDense` returns, with the released layer's gradient.

    The gradient is right for `losses.a_softmax` with the same labels, margin and lambda behind
    it, however its rows are weighted. The layer's backward wants the softmax's gradient d of each
    logit. For the other classes it is what arrives here. What arrives for the target has the
    derivative of the margin in it already; its d is rebuilt as minus the sum of the others', for
    the gradient of a softmax cross-entropy sums to 0 over the classes.

    Source: the authors' released code, `margin_inner_product_layer.cpp`.
    """
    labels = ops.cast(labels, "int32")
    lambda_ = ops.stop_gradient(ops.convert_to_tensor(lambda_, dtype="float32"))

    @tf.custom_gradient
    def outputs(x: Any, w: Any) -> tuple[Any, Any]:
        unit = unit_columns(w)
        norms = row_norms(x)
        logits = ops.matmul(x, unit)

        def backward(upstream: Any) -> tuple[Any, Any]:
            is_target = target_mask(labels, logits.shape[-1])
            others = ops.where(is_target, 0.0, upstream[:, :-1])
            at_target = -ops.sum(others, axis=-1, keepdims=True)
            top_diff = ops.where(is_target, at_target, others)
            cosine = target_entries(logits, labels)[:, None] / norms
            along_w, along_x = margin_direction(cosine, norms, margin)
            share = 1.0 / (1.0 + lambda_)
            # top_diff's target times (share along_w + (1 - share)) w_y + share along_x x
            on_w = ops.where(is_target, top_diff * (share * along_w + 1.0 - share), top_diff)
            to_x = ops.matmul(on_w, ops.transpose(unit)) + at_target * share * along_x * x
            to_w = ops.matmul(ops.transpose(x), top_diff)
            return to_x, to_w

        return head_output.join(logits, norms), backward

    tensors = [tf.convert_to_tensor(ops.convert_to_tensor(value)) for value in (embedding, kernel)]
    return outputs(*tensors)


def margin_direction(cos_theta: Any, norm: Any, margin: int) -> tuple[Any, Any]:
    """Return the factors of w and x in the released layer's derivative of `||x|| psi`.

    They are `cw / s` and `cx / s` with `s = sqrt(cw^2 + cx^2)`. The true derivative is `cw w + cx
    x` with `cw = psi'(cos)` and `cx = (psi - cos psi') / ||x||`.

    Example:

    >>> along_w, along_x = margin_direction(ops.array([1.0]), ops.array([3.0]), 4)
    >>> round(float(along_w[0]), 3), round(float(along_x[0]), 3)        # of 16 and -5
    (0.954, -0.298)
    """
    factor_w = angular.psi_slope(cos_theta, margin)
    factor_x = (angular.psi(cos_theta, margin) - cos_theta * factor_w) / norm
    length = ops.sqrt(ops.square(factor_w) + ops.square(factor_x))  # psi and psi' share no zero
    return factor_w / length, factor_x / length


def start_on_the_sphere(head: Any) -> None:
    """Scale a built head's class centres to length 1, where training begins."""
    head.kernel.assign(unit_columns(head.kernel.value))


def check_gradient(gradient: Gradient, head: str) -> None:
    """Raise ValueError where `gradient` of `FaceClassifier` is no choice, or not for the head."""
    check_choice("gradient", gradient, get_args(Gradient))
    if gradient == "caffe" and head != "angular":
        raise ValueError(
            'gradient="caffe" is the backward of A-Softmax\'s layer: it needs head="angular". '
            f"Received: head={head!r}"
        )


def check_loss(loss: Any) -> None:
    """Raise ValueError where a loss cannot be trained with the released layer's gradient."""
    if not isinstance(loss, ASoftmaxLoss):
        raise ValueError(
            'gradient="caffe" is the released backward of A-Softmax: it needs ASoftmaxLoss with '
            f'margin 2, 3 or 4. Use gradient="exact" with another loss. Received: loss={loss!r}'
        )
    if loss.margin not in MARGINS:
        raise ValueError(
            'gradient="caffe" needs margin 2, 3 or 4: with margin 1 the released network has a '
            "plain inner product with unit centres, and no margin whose gradient could differ. "
            f'Use gradient="exact". Received: margin={loss.margin}'
        )
