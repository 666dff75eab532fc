"""SphereFace-R: multiplicative margins of real size on cosines times a scale."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from tf_sphereface import angular
from tf_sphereface.losses import head_output
from tf_sphereface.losses.cross_entropy import (
    detached,
    margin_cross_entropy,
    target_cross_entropy,
    target_entries,
)
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.utils.checks import check_choice, check_number

Version = Literal["v0", "v1", "v2"]


def sphereface_r(
    labels: Any,
    outputs: Any,
    version: Version,
    scale: float,
    margin: float,
    detach: bool = True,
    *,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute SphereFace-R for each example.

    `v0`: the target's cosine becomes `psi(theta)`. `v1`: it becomes `cos(min(margin theta, pi))`.
    `v2`: it stays, and those of the other classes become `cos(theta / margin)`.

    Args:
        labels: integer class of each example, `(batch,)`, in `[0, num_classes)`.
        outputs: what `AngularDense` returns, `(batch, num_classes + 1)`.
        version: `"v0"`, `"v1"` or `"v2"`.
        scale: above 0.
        margin: a real number, at least 1.
        detach: characteristic gradient detachment: the value has the margin, its derivative with
            respect to the cosine is that of the cosine itself.
        label_smoothing: in [0, 1), as in `MarginLoss`.
        xla: whether XLA compiles the caller; the value is the same, the memory differs.

    Returns:
        Nats, `(batch,)`; NaN where a label is out of range.

    Example:

    >>> outputs = keras.ops.array([[0.0, -3.0, -3.0]])     # 90 degrees to the target
    >>> round(float(sphereface_r([0], outputs, "v1", scale=1.0, margin=2.0)[0]), 4)
    0.6931
    """
    if version == "v2":  # the others' cosines change, so they are needed as a table
        cosines = head_output.cosines_of(outputs, outputs.shape[-1] - 1)
        target = target_entries(cosines, labels)
        moved = detached(angular.cos_scaled_angle(cosines, 1.0 / margin), cosines, detach)
        cosines = ops.where(cosines < head_output.LEFT_OUT, cosines, moved)
        return target_cross_entropy(scale * cosines, labels, scale * target, label_smoothing)
    move = angular.psi_real if version == "v0" else angular.cos_scaled_angle

    def target_cosine(cosine: Any, _: Any) -> Any:
        return detached(move(cosine, margin), cosine, detach)

    return margin_cross_entropy(
        labels, outputs, target_cosine, scale=scale, xla=xla, label_smoothing=label_smoothing
    )


@keras.saving.register_keras_serializable(package="tf_sphereface")
class SphereFaceRLoss(MarginLoss):
    """SphereFace-R: SphereFace with a real-valued margin, a fixed scale and no annealing.

    Args:
        version: `"v0"`, psi on the target; `"v1"`, `cos(min(margin theta, pi))` on the target;
            `"v2"` (default), `cos(theta / margin)` on all other classes.
        margin: a real number, at least 1. Default 1.5, the authors' v0 on VGGFace2.
        scale: above 0. Default 30, the same source.
        detach: characteristic gradient detachment (default): the margin is in the value of the
            logit and not in its derivative, which makes training stable without annealing.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Source: Liu, Wen, Raj, Singh, Weller, "SphereFace Revived", TPAMI 2022, arXiv:2109.05565.

    Example:

    >>> outputs = keras.ops.array([[0.0, -3.0, -3.0]])
    >>> round(float(SphereFaceRLoss("v1", margin=2, scale=1)([0], outputs)), 4)
    0.6931
    """

    options = ("version", "margin", "scale", "detach", "label_smoothing")

    def __init__(
        self,
        version: Version = "v2",
        margin: float = 1.5,
        scale: float = 30.0,
        detach: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "sphereface_r",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.version = check_choice("version", version, get_args(Version))
        self.margin = angular.check_real_margin(margin)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.detach = bool(detach)

    def describe(self) -> str:
        """Return margin and scale in words."""
        what = {
            "v0": "times the target's angle, as psi",
            "v1": "times the target's angle, at most pi",
            "v2": "divides the other classes' angles",
        }[self.version]
        gradient = "" if self.detach else ", in the gradient too"
        return (
            f"SphereFace-R {self.version} with margin {self.margin:g} ({what}){gradient}, "
            f"scale {self.scale:g}, no annealing{self.smoothing_in_words()}"
        )

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return sphereface_r(labels, outputs, **self.arguments(), xla=self.xla)
