"""CurricularFace: negatives that are harder than the target count more as training goes on."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tf_sphereface import angular
from tf_sphereface.losses import head_output
from tf_sphereface.losses.cross_entropy import (
    labels_in_range,
    target_cross_entropy,
    target_entries,
)
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.losses.replica_sums import check_weight, global_moments, moving_average
from tf_sphereface.utils.checks import check_number


def curricularface(
    labels: Any,
    outputs: Any,
    scale: float,
    margin: float,
    *,
    t: Any,
    label_smoothing: float = 0.0,
) -> Any:
    """Compute CurricularFace for each example.

    The target's cosine becomes that of ArcFace, `cos(theta + margin)` (past pi,
    `cos(theta) - margin sin(margin)`). The cosine c of another class above
    `cos(theta + margin)` becomes `c (t + c)`; the others stay.

    `labels`, `outputs`, `label_smoothing` and the result are those of `arcface`; `t`, a number or a
    scalar tensor, is the mean target cosine of the training so far. It takes whole tables of
    logits, as `sphereface_r` v2.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])     # an easy negative: as ArcFace
    >>> round(float(curricularface([0], outputs, 3.0, 0.5, t=0.3)[0]), 4)
    0.1704
    """
    cosines = head_output.cosines_of(outputs, outputs.shape[-1] - 1)
    own = target_entries(cosines, labels)
    target = angular.cos_shifted_angle_released(own, margin)
    hard = cosines > angular.cos_sum(own, margin)[:, None]
    cosines = ops.where(hard, cosines * (ops.cast(t, cosines.dtype) + cosines), cosines)
    return target_cross_entropy(scale * cosines, labels, scale * target, label_smoothing)


@keras.saving.register_keras_serializable(package="tf_sphereface")
class CurricularFaceLoss(MarginLoss):
    """CurricularFace: ArcFace whose hard negatives weigh little at first, and more later.

    Their weight follows t, a moving mean of the target's cosine over the training batches, which
    starts at 0 and moves as the statistics of `AdaFaceLoss` do: before it is used, in training
    alone, over the global batch, and kept by the head.

    Args:
        scale: above 0. Default 64.
        margin: radians, in [0, pi). Default 0.5.
        t_alpha: weight of a batch in t, in (0, 1]. Default 0.01.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `AdaFaceLoss`.

    Source: Huang et al., "CurricularFace", CVPR 2020, arXiv:2004.00288, eq. 5 to 8, and the
    authors' released code.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(CurricularFaceLoss(scale=3)([0], outputs)), 4)
    0.1704
    """

    options = ("scale", "margin", "t_alpha", "label_smoothing")
    sums_over_replicas = True

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.5,
        t_alpha: float = 0.01,
        reduction: str = "sum_over_batch_size",
        name: str = "curricularface",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.margin = check_number("margin", margin, 0.0, math.pi)
        self.t_alpha = check_weight("t_alpha", t_alpha)

    @property
    def first_state(self) -> dict[str, float]:
        """The numbers that the head keeps, with their first values."""
        return {"t": 0.0}

    def describe(self) -> str:
        """Return margin and scale in words."""
        return (
            f"CurricularFace with margin {self.margin:g} rad (added to the angle; negatives above "
            f"the target weigh more as it is learnt), scale {self.scale:g}"
            f"{self.smoothing_in_words()}"
        )

    def moved(self, values: dict[str, Any], labels: Any, outputs: Any) -> dict[str, Any]:
        """Return t after the global batch's target cosines."""
        num_classes = outputs.shape[-1] - 1
        outputs = ops.stop_gradient(outputs)
        norms = ops.maximum(head_output.norms_of(outputs), head_output.NORM_FLOOR)
        cosines = target_entries(outputs[:, :-1], labels) / norms
        known = ops.all(labels_in_range(labels, num_classes))
        count, mean, _ = global_moments(head_output.or_nan(cosines, known))
        return {"t": moving_average(values["t"], mean, self.t_alpha, count > 0)}

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return curricularface(
            labels,
            outputs,
            self.scale,
            self.margin,
            **self.current_state(labels, outputs),
            label_smoothing=self.label_smoothing,
        )
