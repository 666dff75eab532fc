"""Softmax losses on cosines times a scale: NormFace, CosFace and ArcFace."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tf_sphereface import angular
from tf_sphereface.losses.cross_entropy import margin_cross_entropy
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.utils.checks import check_integer, check_number


def normface(
    labels: Any, outputs: Any, scale: float, *, label_smoothing: float = 0.0, xla: bool = False
) -> Any:
    """Compute the softmax cross-entropy of `scale * cos(theta_j)` for each example.

    Args:
        labels: integer class of each example, `(batch,)`, in `[0, num_classes)`.
        outputs: what `AngularDense` returns, `(batch, num_classes + 1)`.
        scale: above 0.
        label_smoothing: in [0, 1), as in `MarginLoss`.
        xla: whether XLA compiles the caller; the value is the same, the memory differs.

    Returns:
        Nats, `(batch,)`; NaN where a label is out of range.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])     # cos = 2/3 and -1/3
    >>> round(float(normface([0], outputs, scale=3.0)[0]), 4)
    0.0486
    """
    return margin_cross_entropy(
        labels,
        outputs,
        lambda cosine, _: cosine,
        scale=scale,
        xla=xla,
        label_smoothing=label_smoothing,
    )


def cosface(
    labels: Any,
    outputs: Any,
    scale: float,
    margin: float,
    *,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute CosFace for each example: the target's logit is `scale * (cos(theta) - margin)`.

    Arguments and result are those of `normface`, and `margin`, at least 0, a number or a scalar
    tensor.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(cosface([0], outputs, scale=3.0, margin=1.0)[0]), 4)
    0.6931
    """
    return margin_cross_entropy(
        labels,
        outputs,
        lambda cosine, _: cosine - margin,
        scale=scale,
        xla=xla,
        label_smoothing=label_smoothing,
    )


def arcface(
    labels: Any,
    outputs: Any,
    scale: float,
    margin: float,
    *,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute ArcFace for each example: the target's logit is `scale * cos(theta + margin)`.

    Arguments and result are those of `normface`, and `margin`, radians in [0, pi), a number or a
    scalar tensor. What happens past pi is described in `angular.cos_shifted_angle`.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(arcface([0], outputs, scale=3.0, margin=0.5)[0]), 4)
    0.1704
    """

    def target_cosine(cosine: Any, _: Any) -> Any:
        return angular.cos_shifted_angle(cosine, margin)

    return margin_cross_entropy(
        labels, outputs, target_cosine, scale=scale, xla=xla, label_smoothing=label_smoothing
    )


@keras.saving.register_keras_serializable(package="tf_sphereface")
class NormFaceLoss(MarginLoss):
    """Softmax on cosines times a scale, without a margin.

    Args:
        scale: above 0. Default 64, so that a comparison with `CosFaceLoss` and `ArcFaceLoss` shows
            the margin alone.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Source: Wang, Xiang, Cheng, Yuille, "NormFace", ACM MM 2017, arXiv:1704.06369; there the scale
    is learnt, here it is fixed.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(NormFaceLoss(scale=3)([0], outputs)), 4)
    0.0486
    """

    options = ("scale", "label_smoothing")

    def __init__(
        self,
        scale: float = 64.0,
        reduction: str = "sum_over_batch_size",
        name: str = "normface",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.scale = check_number("scale", scale, 0.0, open_low=True)

    def describe(self) -> str:
        """Return margin and scale in words."""
        return f"NormFace: no margin, scale {self.scale:g}{self.smoothing_in_words()}"

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return normface(labels, outputs, **self.arguments(), xla=self.xla)


class _WarmedMargin(MarginLoss):
    """The part of both losses with a margin: its growth over the first training steps."""

    options = ("scale", "margin", "margin_warm_up", "label_smoothing")

    def __init__(self, scale: float, margin_warm_up: int, **options: Any) -> None:
        super().__init__(**options)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.margin_warm_up = check_integer("margin_warm_up", margin_warm_up, 0)

    @property
    def first_state(self) -> dict[str, float]:
        """The count of training steps, which the head keeps, where the margin grows."""
        return {"margin_steps": 0.0} if self.margin_warm_up else {}

    def moved(self, values: dict[str, Any], labels: Any, outputs: Any) -> dict[str, Any]:
        """Return the count after a training step."""
        return {"margin_steps": values["margin_steps"] + 1.0}

    def arguments_now(self, labels: Any, outputs: Any) -> dict[str, Any]:
        """Return the arguments of the function: the margin as it is in this step."""
        margin: Any = self.margin
        if self.margin_warm_up and self._kept is not None:
            steps = self.current_state(labels, outputs)["margin_steps"]
            margin = margin * ops.minimum(steps / self.margin_warm_up, 1.0)
        names = {"scale": self.scale, "margin": margin, "label_smoothing": self.label_smoothing}
        return {**names, "xla": self.xla}

    def ending(self) -> str:
        """Return the end of `describe`."""
        grows = f", grown over {self.margin_warm_up} steps" if self.margin_warm_up else ""
        return f", scale {self.scale:g}{grows}{self.smoothing_in_words()}"


@keras.saving.register_keras_serializable(package="tf_sphereface")
class CosFaceLoss(_WarmedMargin):
    """CosFace (AM-Softmax): a margin that is subtracted from the target's cosine.

    Args:
        scale: above 0. Default 64.
        margin: at least 0. Default 0.35.
        margin_warm_up: training steps over which the margin grows from 0; then it is `margin`.
            Default 0, at once. The head keeps the count of batches (with gradient accumulation it
            is above that of updates), which moves in training alone, so it goes on where a model
            is saved and loaded, or compiled anew. Outside a model the margin is whole.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Source: Wang et al., "CosFace", CVPR 2018, arXiv:1801.09414, eq. 4.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(CosFaceLoss(scale=3, margin=1)([0], outputs)), 4)
    0.6931
    """

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.35,
        reduction: str = "sum_over_batch_size",
        name: str = "cosface",
        *,
        margin_warm_up: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        more = {"reduction": reduction, "name": name, "label_smoothing": label_smoothing}
        super().__init__(scale, margin_warm_up, **more)
        self.margin = check_number("margin", margin, 0.0)

    def describe(self) -> str:
        """Return margin and scale in words."""
        return f"CosFace with margin {self.margin:g} (taken off the cosine){self.ending()}"

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return cosface(labels, outputs, **self.arguments_now(labels, outputs))


@keras.saving.register_keras_serializable(package="tf_sphereface")
class ArcFaceLoss(_WarmedMargin):
    """ArcFace: a margin that is added to the target's angle.

    Where angle and margin together pass pi, the logit goes on falling, as
    `angular.cos_shifted_angle` says; there is no jump and no second branch to choose.

    Args:
        scale: above 0. Default 64.
        margin: radians, in [0, pi). Default 0.5.
        margin_warm_up: as of `CosFaceLoss`.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Source: Deng, Guo, Xue, Zafeiriou, "ArcFace", CVPR 2019, arXiv:1801.07698, eq. 3.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(ArcFaceLoss(scale=3)([0], outputs)), 4)
    0.1704
    """

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.5,
        reduction: str = "sum_over_batch_size",
        name: str = "arcface",
        *,
        margin_warm_up: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        more = {"reduction": reduction, "name": name, "label_smoothing": label_smoothing}
        super().__init__(scale, margin_warm_up, **more)
        self.margin = check_number("margin", margin, 0.0, math.pi)

    def describe(self) -> str:
        """Return margin and scale in words."""
        margin = (
            f"{self.margin:g} rad ({math.degrees(self.margin):.1f} degrees, added to the angle)"
        )
        return f"ArcFace with margin {margin}{self.ending()}"

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return arcface(labels, outputs, **self.arguments_now(labels, outputs))
