"""AdaFace: a margin that follows the length of the embedding, beside that of the batches so far."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tf_sphereface import angular
from tf_sphereface.losses import head_output
from tf_sphereface.losses.cross_entropy import margin_cross_entropy
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.losses.replica_sums import check_weight, global_moments, moving_average
from tf_sphereface.utils.checks import check_number

NORMS = (0.001, 100.0)  # lengths are clipped to this range
DEVIATION_FLOOR = 1e-3  # added to the deviation


def adaface(
    labels: Any,
    outputs: Any,
    scale: float,
    margin: float,
    *,
    h: float,
    norm_mean: Any,
    norm_deviation: Any,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute AdaFace for each example.

    With `z = clip(h (norm - norm_mean) / (norm_deviation + 0.001), -1, 1)` and the norm clipped to
    [0.001, 100], the target's logit is `scale * (cos(theta - margin z) - margin (1 + z))`, the sum
    of the angles kept in [0.001, pi - 0.001]. No gradient goes through z.

    Args:
        labels: integer class of each example, `(batch,)`, in `[0, num_classes)`.
        outputs: what `AngularDense` returns, `(batch, num_classes + 1)`.
        scale: above 0.
        margin: in [0, pi).
        h: how far a deviation moves z, at least 0.
        norm_mean: of the lengths, a number or a scalar tensor.
        norm_deviation: of the lengths, at least 0.
        label_smoothing: in [0, 1), as in `MarginLoss`.
        xla: whether XLA compiles the caller; the value is the same, the memory differs.

    Returns:
        Nats, `(batch,)`; NaN where a label is out of range.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])     # ||x|| = 3, cos = 2/3 and -1/3
    >>> loss = adaface([0], outputs, 3.0, 1.0, h=0.333, norm_mean=3.0, norm_deviation=1.0)
    >>> round(float(loss[0]), 4)                           # of mean length: CosFace
    0.6931
    """

    def target_cosine(cosine: Any, norm: Any) -> Any:
        norm = ops.clip(ops.stop_gradient(norm), *NORMS)
        mean, deviation = (ops.cast(v, norm.dtype) for v in (norm_mean, norm_deviation))
        z = ops.clip(h * (norm - mean) / (deviation + DEVIATION_FLOOR), -1.0, 1.0)
        return angular.cos_clipped_shift(cosine, -margin * z) - margin * (1.0 + z)

    return margin_cross_entropy(
        labels, outputs, target_cosine, scale=scale, xla=xla, label_smoothing=label_smoothing
    )


@keras.saving.register_keras_serializable(package="tf_sphereface")
class AdaFaceLoss(MarginLoss):
    """AdaFace: hard examples count where the embedding is long, easy ones where it is short.

    The length stands for the quality of the image. It is compared with a moving mean and deviation
    of the lengths of the training batches, which start at 20 and 100, move before they are used,
    and in training alone. Over replicas they are those of the global batch. The head keeps them
    among its weights, so a saved model or a checkpoint has them.

    Args:
        scale: above 0. Default 64.
        margin: m, in [0, pi). Default 0.4.
        h: how far a deviation moves the margin, at least 0. Default 0.333.
        t_alpha: weight of a batch in the moving mean and deviation, in (0, 1]. Default 0.01.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`. A batch of
    one example moves the mean alone. Called outside a model, the loss takes the first values; in a
    training loop of your own, `loss.bind_state(head.loss_state)` once, then
    `head(x, training=True)`, moves them.

    Raises:
        ValueError: in a stock model, its `call` has no argument `training`, or one loss object is
            used for two heads.

    Source: Kim, Jain, Liu, "AdaFace", CVPR 2022, arXiv:2204.00964, eq. 11 to 14; constants of the
    authors' training script.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(AdaFaceLoss(scale=3)([0], outputs)), 4)
    0.1506
    """

    options = ("scale", "margin", "h", "t_alpha", "label_smoothing")
    sums_over_replicas = True

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
        reduction: str = "sum_over_batch_size",
        name: str = "adaface",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.scale = check_number("scale", scale, 0.0, open_low=True)
        self.margin = check_number("margin", margin, 0.0, math.pi)
        self.h = check_number("h", h, 0.0)
        self.t_alpha = check_weight("t_alpha", t_alpha)

    @property
    def first_state(self) -> dict[str, float]:
        """The numbers that the head keeps, with their first values."""
        return {"norm_mean": 20.0, "norm_deviation": 100.0}

    def describe(self) -> str:
        """Return margin and scale in words."""
        return (
            f"AdaFace with margin {self.margin:g} (off the cosine at mean length, added to the "
            f"angle of short embeddings), h {self.h:g}, scale {self.scale:g}"
            f"{self.smoothing_in_words()}"
        )

    def moved(self, values: dict[str, Any], labels: Any, outputs: Any) -> dict[str, Any]:
        """Return mean and deviation (with n - 1) after the global batch's lengths."""
        norms = ops.clip(head_output.norms_of(ops.stop_gradient(outputs)), *NORMS)
        count, mean, squares = global_moments(norms)
        deviation = ops.sqrt(squares / ops.maximum(count - 1.0, 1.0))
        new = {"norm_mean": (mean, count > 0), "norm_deviation": (deviation, count > 1)}
        return {
            name: moving_average(values[name], value, self.t_alpha, known)
            for name, (value, known) in new.items()
        }

    def per_example(self, labels: Any, outputs: Any) -> Any:
        return adaface(
            labels,
            outputs,
            self.scale,
            self.margin,
            h=self.h,
            **self.current_state(labels, outputs),
            label_smoothing=self.label_smoothing,
            xla=self.xla,
        )
