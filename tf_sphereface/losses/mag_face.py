"""MagFace: a margin that grows with the length of the embedding, and a term that lengthens it."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tf_sphereface import angular
from tf_sphereface.losses.cross_entropy import margin_cross_entropy
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.utils.checks import check_number, error


def magface(
    labels: Any,
    outputs: Any,
    scale: float,
    *,
    lower_norm: float,
    upper_norm: float,
    lower_margin: float,
    upper_margin: float,
    regularizer: float,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute MagFace for each example, with its regularizer.

    With the length `a`, clipped to [lower_norm, upper_norm], and the margin `m(a)`, which grows in
    a straight line from `lower_margin` to `upper_margin`, the target's logit is
    `scale * cos(theta + m(a))`; past pi, `scale * (cos(theta) - m(a) sin(m(a)))`. Added to it is
    `regularizer * (a / upper_norm^2 + 1 / a)`. The gradient goes through a.

    `labels`, `outputs`, `label_smoothing`, `xla` and the result are those of `arcface`; the other
    arguments are those of `MagFaceLoss`.

    Example:

    >>> outputs = keras.ops.array([[4.0, -2.0, -6.0]])     # ||x|| = 6, cos = 2/3 and -1/3
    >>> norms, margins = {"lower_norm": 2.0, "upper_norm": 10.0}, {"lower_margin": 0.3,
    ...     "upper_margin": 0.7}                           # half way: 0.5
    >>> loss = magface([0], outputs, 3.0, **norms, **margins, regularizer=0.0)
    >>> round(float(loss[0]), 4)
    0.1704
    """

    def clipped(norm: Any) -> Any:
        return ops.clip(norm, lower_norm, upper_norm)

    def target_cosine(cosine: Any, norm: Any) -> Any:
        slope = (upper_margin - lower_margin) / (upper_norm - lower_norm)
        margin = lower_margin + slope * (clipped(norm) - lower_norm)
        return angular.cos_shifted_angle_released(cosine, margin)

    def norm_term(norm: Any) -> Any:
        length = clipped(norm)
        return regularizer * (length / upper_norm**2 + 1.0 / length)

    return margin_cross_entropy(
        labels,
        outputs,
        target_cosine,
        scale=scale,
        xla=xla,
        label_smoothing=label_smoothing,
        norm_term=norm_term,
    )


@keras.saving.register_keras_serializable(package="tf_sphereface")
class MagFaceLoss(MarginLoss):
    """MagFace: the longer the embedding, the larger the margin, and length is rewarded.

    The length becomes a measure of the image's quality. The regularizer is a part of each example's
    loss: class and sample weights multiply it. Out of the range of lengths neither margin nor
    regularizer has a gradient: `callbacks.TrainingDoctor` warns where nearly all embeddings lie
    there.

    Args:
        scale: above 0. Default 64.
        lower_norm: length at which the margin begins to grow, above 0. Default 10.
        upper_norm: length from which it stays, above `lower_norm`. Default 110.
        lower_margin: radians, in [0, pi). Default 0.45.
        upper_margin: radians, in [lower_margin, pi). Default 0.8.
        regularizer: weight of `a / upper_norm^2 + 1 / a`, at least 0. Default 35.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Source: Meng, Zhao, Huang, Zhou, "MagFace", CVPR 2021, arXiv:2103.06627, eq. 3 to 5 and the
    authors' released code.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])     # ||x|| = 3 counts as 10
    >>> round(float(MagFaceLoss(scale=3, regularizer=0)([0], outputs)), 4)
    0.149
    """

    options = (
        "scale",
        "lower_norm",
        "upper_norm",
        "lower_margin",
        "upper_margin",
        "regularizer",
        "label_smoothing",
    )

    def __init__(
        self,
        scale: float = 64.0,
        *,
        lower_norm: float = 10.0,
        upper_norm: float = 110.0,
        lower_margin: float = 0.45,
        upper_margin: float = 0.8,
        regularizer: float = 35.0,
        reduction: str = "sum_over_batch_size",
        name: str = "magface",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.lower_norm = check_number("lower_norm", lower_norm, 0.0, open_low=True)
        self.upper_norm = check_number("upper_norm", upper_norm, lower_norm, open_low=True)
        self.lower_margin = check_number("lower_margin", lower_margin, 0.0, math.pi)
        self.upper_margin = check_number("upper_margin", upper_margin, 0.0, math.pi)
        if self.upper_margin < self.lower_margin:
            raise error("upper_margin", f"be at least lower_margin={lower_margin:g}", upper_margin)
        self.regularizer = check_number("regularizer", regularizer, 0.0)

    def describe(self) -> str:
        """Return margins and scale in words."""
        return (
            f"MagFace with margin {self.lower_margin:g} to {self.upper_margin:g} rad (added to the "
            f"angle) at lengths {self.lower_norm:g} to {self.upper_norm:g}, regularizer "
            f"{self.regularizer:g}, scale {self.scale:g}{self.smoothing_in_words()}"
        )

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return magface(labels, outputs, **self.arguments(), xla=self.xla)
