"""A-Softmax, the loss of SphereFace."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tf_sphereface import angular
from tf_sphereface.losses.cross_entropy import margin_cross_entropy
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.losses.update_count import check_step, read_step
from tf_sphereface.schedules import LambdaAnnealing
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.messages import SphereFaceWarning


def a_softmax(
    labels: Any,
    outputs: Any,
    margin: int,
    lambda_: Any,
    *,
    label_smoothing: float = 0.0,
    xla: bool = False,
) -> Any:
    """Compute A-Softmax for each example.

    Args:
        labels: integer class of each example, `(batch,)`, in `[0, num_classes)`.
        outputs: what `AngularDense` returns, `(batch, num_classes + 1)`.
        margin: 1, 2, 3 or 4.
        lambda_: weight of the plain cosine in the target logit, >= 0.
        label_smoothing: in [0, 1), as in `MarginLoss`.
        xla: whether XLA compiles the caller; the value is the same, the memory differs.

    Returns:
        Cross-entropy in nats, `(batch,)`; NaN where a label is out of range.

    Source: CVPR 2017, eq. 7, with the released layer's blend.

    Example:

    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])     # ||x|| = 3, cos = 2/3 and -1/3
    >>> round(float(a_softmax([0], outputs, margin=1, lambda_=0.0)[0]), 4)
    0.0486
    """

    def target_cosine(cosine: Any, _: Any) -> Any:
        return angular.a_softmax_logit(cosine, 1.0, margin, lambda_)

    return margin_cross_entropy(
        labels, outputs, target_cosine, scale=None, xla=xla, label_smoothing=label_smoothing
    )


@keras.saving.register_keras_serializable(package="tf_sphereface")
class ASoftmaxLoss(MarginLoss):
    """The A-Softmax loss of SphereFace, with the annealed blend that makes it train.

    The target logit of `AngularDense` becomes `||x|| (lambda cos + psi) / (1 + lambda)`, where psi
    is the monotone form of `cos(margin * theta)`; the others stay. lambda falls with the number of
    applied updates, which the loss reads from `step`.

    Args:
        margin: 1, 2, 3 or 4. Default 4. `margin=1` is the modified softmax (no margin).
        annealing: a `LambdaAnnealing` (default: the paper's), or a number >= 0 for a constant
            lambda; 0 is the paper's equation without any blend, which rarely trains from scratch.
        step: where the number of applied updates is read: the optimizer (preferred), a variable,
            an int (lambda is held there) or a callable. A plain tensor is refused: it would be a
            constant. `FaceClassifier.compile` binds its own optimizer.

    `reduction`, `name`, `label_smoothing`, call arguments and errors: see `MarginLoss`.

    Raises:
        ValueError: no step when lambda is needed; in the training of a stock model, `step` is
            another optimizer than the model's, with which lambda would stand still.
        TypeError: `step` is a plain tensor or something that cannot be read.

    A loaded loss is held at the lambda with which it was saved, so that `evaluate` repeats the
    figure; `bind_step(model)` lets training go on.

    Source: CVPR 2017, eq. 7 and the authors' released layer.

    Example:

    >>> optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    >>> loss = ASoftmaxLoss(margin=4, step=optimizer)
    >>> outputs = keras.ops.array([[2.0, -1.0, -3.0]])
    >>> round(float(loss([0], outputs)), 4)                # lambda is 892.857: almost no margin
    0.0489
    """

    options = ("margin", "label_smoothing")

    def __init__(
        self,
        margin: int = 4,
        annealing: LambdaAnnealing | float | None = None,
        step: Any = None,
        reduction: str = "sum_over_batch_size",
        name: str = "a_softmax",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, name, label_smoothing=label_smoothing)
        self.margin = angular.check_margin(margin)
        self.annealing = _check_annealing(annealing)
        self.step = step

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `step` is checked as the constructor's."""
        if name == "step":
            value = check_step(value)
            if self._used:
                raise AttributeError(
                    "`step` is fixed once a loss was used: a training step that is compiled would "
                    "go on with the old one. After compile, tf_sphereface.losses.bind_step(model) "
                    f"lets lambda follow the model's optimizer. Received: step={value!r}"
                )
        super().__setattr__(name, value)

    def follow(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Let lambda follow an optimizer; the model's functions have to be traced anew."""
        self.__dict__["step"] = check_step(optimizer)

    @property
    def needs_step(self) -> bool:
        """Whether the value depends on the number of updates."""
        return self.margin > 1 and isinstance(self.annealing, LambdaAnnealing)

    def current_lambda(self) -> Any:
        """Return lambda for the update that comes next: a float or a scalar tensor."""
        if not isinstance(self.annealing, LambdaAnnealing):
            return self.annealing
        if self.step is None:
            if not self.needs_step:
                return 0.0
            raise ValueError(
                "ASoftmaxLoss does not know how many updates were applied, so it has no lambda. "
                "Pass the optimizer: ASoftmaxLoss(..., step=optimizer); or use FaceClassifier, "
                "which binds it by itself; or tf_sphereface.losses.bind_step(model) after loading."
            )
        return self.annealing(read_step(self.step) + 1)

    def describe(self) -> str:
        """Return margin and lambda in words, with the margin that is felt at the end."""
        smoothing = self.smoothing_in_words()
        if self.margin == 1:
            return f"A-Softmax with margin 1: the modified softmax, no margin{smoothing}"
        if isinstance(self.annealing, LambdaAnnealing):
            last = self.annealing.minimum
            fall = f"falls from {self.annealing.base:g} to {last:g}"
        else:
            last = self.annealing
            fall = f"is {last:g}"
        felt = float(angular.effective_margin(self.margin, last))
        return (
            f"A-Softmax with margin {self.margin} (times the angle); lambda {fall}, where the "
            f"margin that is felt is {felt:.2f}{smoothing}"
        )

    def per_example(self, labels: Any, outputs: Any) -> Any:
        lambda_ = self.current_lambda()
        return a_softmax(labels, outputs, lambda_=lambda_, **self.arguments(), xla=self.xla)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; `step` as the int it stands at."""
        return {
            **super().get_config(),
            "annealing": keras.saving.serialize_keras_object(self.annealing),
            "step": None if self.step is None else int(read_step(self.step)),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ASoftmaxLoss:
        """Return the loss that `get_config` described, held at the lambda of that moment."""
        config = dict(config)
        if isinstance(config.get("annealing"), dict):
            config["annealing"] = keras.saving.deserialize_keras_object(config["annealing"])
        loss = cls(**config)
        if loss.needs_step and loss.step is not None:
            warnings.warn(
                f"This ASoftmaxLoss is held at update {loss.step} (lambda "
                f"{float(loss.current_lambda()):.3f}), so that evaluate() repeats the saved "
                "figure. To go on training, call tf_sphereface.losses.bind_step(model).",
                SphereFaceWarning,
                stacklevel=2,
            )
        return loss


def _check_annealing(annealing: LambdaAnnealing | float | None) -> LambdaAnnealing | float:
    if annealing is None:
        return LambdaAnnealing()
    if isinstance(annealing, LambdaAnnealing):
        return annealing
    if isinstance(annealing, int | float) and not isinstance(annealing, bool) and annealing >= 0:
        return float(annealing)
    raise error("annealing", "be a LambdaAnnealing or a constant lambda >= 0", annealing)
