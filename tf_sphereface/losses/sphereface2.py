"""SphereFace2: one binary decision per class, with one bias that all classes share."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tf_sphereface.losses import head_output
from tf_sphereface.losses.cross_entropy import (
    detached,
    labels_in_range,
    target_entries,
    target_mask,
)
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.utils.checks import check_number


def sphereface2(
    labels: Any,
    outputs: Any,
    scale: float,
    margin: float,
    *,
    alpha: float,
    power: float,
    weight: float,
    detach: bool = True,
    label_smoothing: float = 0.0,
) -> Any:
    """Compute SphereFace2 (the C variant) for each example.

    With `g(z) = 2 ((z + 1) / 2)^power - 1` and the head's bias b, `weight` times

        alpha / scale        log(1 + exp(-scale (g(cos_y) - margin) - b))
        + (1 - alpha) / scale sum_{j != y} log(1 + exp(scale (g(cos_j) + margin) + b))

    With smoothed labels each of the C decisions has both terms, for class j with the weights
    `share_j` and `1 - share_j`: `share_y = 1 - e + e / C`, else `e / C`.

    Args:
        labels: integer class of each example, `(batch,)`, in `[0, num_classes)`.
        outputs: what `AngularDense(num_classes, shared_bias=...)` returns,
            `(batch, num_classes + 2)`.
        scale: r of the paper, above 0.
        margin: m, at least 0.
        alpha: weight of the target's decision, in (0, 1).
        power: t, at least 1.
        weight: of the whole loss, above 0.
        detach: take the gradient through the cosines alone, as the authors' code does.
        label_smoothing: e, in [0, 1).

    Returns:
        `(batch,)`; NaN where a label is out of range, or where the head has no bias.

    Example:

    >>> outputs = head_output.join(keras.ops.array([[1.0, -1.0]]), keras.ops.array([[1.0]]), 0.0)
    >>> round(float(sphereface2([0], outputs, 1, 0, alpha=0.5, power=1, weight=1)[0]), 4)
    0.3133
    """
    num_classes = outputs.shape[-1] - 2
    cosines = head_output.cosines_of(outputs, num_classes)
    bias = head_output.shared_bias_of(outputs)

    def similarity(cosine: Any) -> Any:
        base = ops.maximum((cosine + 1.0) / 2.0, 0.0)  # rounding may leave a cosine below -1
        return detached(2.0 * ops.power(base, power) - 1.0, cosine, detach)

    is_target = target_mask(labels, num_classes)
    similarities = similarity(cosines)
    negative = ops.softplus(scale * (similarities + margin) + bias[:, None])
    if label_smoothing:
        share = label_smoothing / num_classes
        shares = ops.cast(is_target, negative.dtype) * (1.0 - label_smoothing) + share
        positive = ops.softplus(-scale * (similarities - margin) - bias[:, None])
        positive, negative = ops.sum(shares * positive, axis=-1), (1.0 - shares) * negative
    else:
        own = similarity(target_entries(cosines, labels)) - margin
        positive = ops.softplus(-scale * own - bias)
        negative = ops.where(is_target, 0.0, negative)
    total = alpha * positive + (1.0 - alpha) * ops.sum(negative, axis=-1)
    return head_output.or_nan(weight / scale * total, labels_in_range(labels, num_classes))


def sphereface2_bias(
    num_classes: int,
    scale: float = 40.0,
    margin: float = 0.4,
    alpha: float = 0.7,
    power: float = 3.0,
) -> float:
    """Compute the bias to start from: the best one while all cosines are 0.

    Without it a fresh net of many classes sees almost only negatives, and the first updates do
    nothing but move the bias. With `z = alpha / ((1 - alpha) (C - 1))`, `a_y = r (g(0) - m)` and
    `a_i = r (g(0) + m)`:
    `b = log(2z) - a_i - log(1 - z + sqrt((1 - z)^2 + 4 z exp(a_y - a_i)))`.

    `num_classes` is C, at least 1 (1 is taken for 2: there is no negative to weigh); the other
    arguments are those of `SphereFace2Loss`.

    Source: the authors' released code.

    Example:

    >>> round(sphereface2_bias(10_575), 4)
    5.5814
    """
    z = alpha / ((1.0 - alpha) * max(num_classes - 1, 1))
    at_zero = 2.0 * 0.5**power - 1.0
    a_y, a_i = scale * (at_zero - margin), scale * (at_zero + margin)
    root = math.sqrt((1.0 - z) ** 2 + 4.0 * z * math.exp(a_y - a_i))
    if z < 1:
        log_sum = math.log(1.0 - z + root)
    else:  # few classes: 1 - z + root would cancel, and is 4 z exp(a_y - a_i) / (root + z - 1)
        log_sum = math.log(4.0 * z) + (a_y - a_i) - math.log(root + z - 1.0)
    return math.log(2.0 * z) - a_i - log_sum


@keras.saving.register_keras_serializable(package="tf_sphereface")
class SphereFace2Loss(MarginLoss):
    """SphereFace2: binary classification, one class against the rest, C times.

    There is no softmax and so no competition between the classes of a batch. The bias that all
    decisions share is trained with the head: `AngularDense(num_classes,
    shared_bias="sphereface2")`, or `FaceClassifier(..., head="sphereface2")`. Both start it at
    the value for the default arguments; for others `first_bias(num_classes)` has it: pass it to
    `AngularDense`, or assign it to `FaceClassifier`'s `head_layer.bias`.

    Args:
        scale: r of the paper, above 0. Default 40.
        margin: m, at least 0. Default 0.4, on the adjusted cosine, on both sides.
        alpha: weight of the positive decision against the negative ones, in (0, 1). Default 0.7.
        power: t, at least 1: spreads the similarities of the negatives. Default 3.
        weight: of the whole loss, above 0. Default 50.
        detach: take the gradient through the cosines alone, as the authors' code does (default).
        label_smoothing: e, in [0, 1). Default 0. There is no softmax over which to spread it; the
            label of each binary decision is smoothed: `1 - e + e / C` in place of 1 for the
            example's class, `e / C` in place of 0 for each other one. The paper has none.

    `reduction`, `name`, call arguments and errors: see `MarginLoss`; `y_pred` has
    `num_classes + 2` columns.

    Source: Wen, Liu, Weller, Raj, Singh, "SphereFace2", ICLR 2022, arXiv:2108.01513.

    Example:

    >>> from tf_sphereface.layers import AngularDense
    >>> head = AngularDense(10, shared_bias="sphereface2")
    >>> loss = SphereFace2Loss()
    >>> bool(loss([3, 7], head(keras.random.normal((2, 8)))) > 0)
    True
    """

    options = ("scale", "margin", "alpha", "power", "weight", "detach", "label_smoothing")
    needs_shared_bias = True

    def __init__(
        self,
        scale: float = 40.0,
        margin: float = 0.4,
        alpha: float = 0.7,
        power: float = 3.0,
        weight: float = 50.0,
        detach: bool = True,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "sphereface2",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.margin = check_number("margin", margin, 0.0)
        self.alpha = check_number("alpha", alpha, 0.0, 1.0, open_low=True)
        self.power = check_number("power", power, 1.0)
        self.weight = check_number("weight", weight, 0.0, open_low=True)
        self.detach = bool(detach)

    def first_bias(self, num_classes: int) -> float:
        """Return `sphereface2_bias` for this loss's own arguments."""
        return sphereface2_bias(num_classes, self.scale, self.margin, self.alpha, self.power)

    def describe(self) -> str:
        """Return margin and scale in words."""
        return (
            f"SphereFace2 with margin {self.margin:g} (on the adjusted cosine, both sides), "
            f"scale {self.scale:g}, alpha {self.alpha:g}, power {self.power:g}, "
            f"weight {self.weight:g}{self.smoothing_in_words()}"
        )

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return sphereface2(labels, outputs, **self.arguments())
