"""The base of all losses: a thin class over a pure function of labels and outputs."""

from __future__ import annotations

from typing import Any, Self

import keras
from keras import ops

from tf_sphereface.losses import head_output
from tf_sphereface.losses.cross_entropy import check_labels
from tf_sphereface.utils.checks import check_number


class StateVariables:
    """The layer that keeps a loss's numbers, in an object that Keras does not look into.

    Keras saves what it finds in the attributes of a loss; this layer is the head's.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer


class MarginLoss(keras.losses.Loss):
    """Base of the losses on the output of `layers.AngularDense`.

    A subclass keeps each argument of its `__init__` as an attribute, names them in `options`, and
    computes the loss of each example in `per_example` by a pure function. The arguments are fixed
    from the first use on: a compiled training step holds their values, and would not see others.

    Args:
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.
        label_smoothing: e, in [0, 1). Default 0. With C classes the label's share of the target
            distribution is `1 - e + e / C`, that of each other class `e / C`; the last column of
            the head is no class and gets none. The target's logit keeps its margin: the loss is
            `loss(e=0) + e (z_y - mean_j z_j)`. With a sampled head (`sample_rate` below 1) C is
            the number of classes in the step's sample, among them all of the batch; evaluation is
            over all classes. `SphereFace2Loss` says what it does with it.

    Call arguments: `y_true`, integer labels `(batch,)` or `(batch, 1)` in `[0, num_classes)`;
    `y_pred`, the output of `AngularDense`. Everything is computed in float32.

    Raises:
        AttributeError: an argument is set after the first use.
        ValueError: an argument is out of range; one-hot labels; the head has a shared bias and the
            loss does not know it, or the reverse; outside XLA, a label out of range, or an output
            that is no angular head's, such as that of a `Dense` (`InvalidArgumentError` in a
            graph). Inside XLA the last three give NaN.

    Example:

    >>> class PlainLoss(MarginLoss):
    ...     def per_example(self, labels, outputs):  # without a margin
    ...         return keras.losses.sparse_categorical_crossentropy(labels, outputs[:, :-1], True)
    >>> round(float(PlainLoss()([0], ops.array([[0.0, 0.0, -1.0]]))), 4)
    0.6931
    """

    options: tuple[str, ...] = ()
    """Names of the arguments, for `get_config`."""

    needs_shared_bias: bool = False
    """Whether the loss belongs to `AngularDense(..., shared_bias=...)`."""

    sums_over_replicas: bool = False
    """Whether `moved` sums over the replicas of a strategy, in the middle of the step."""

    xla: bool = False
    """Whether XLA compiles the training step; `FaceClassifier.compile` says so to its copy."""

    _kept: StateVariables | None = None

    _used: bool = False
    """Whether the loss was called, or a model took a copy; then its arguments are fixed."""

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)

    @property
    def first_state(self) -> dict[str, float]:
        """Numbers that the loss keeps from step to step, with their first values."""
        return {}

    @property
    def needs_step(self) -> bool:
        """Whether the value depends on the number of updates."""
        return False

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; refuse an argument that a compiled training step would not see."""
        if self._used and name in ("reduction", "label_smoothing", "annealing", *self.options):
            raise AttributeError(
                f"`{name}` is fixed once a loss was used: a training step that is compiled would "
                "go on with the old value. Compile with a new loss, and with the model's own "
                "optimizer, which keeps its state: model.compile(model.optimizer, "
                f"loss={type(self).__name__}(..., {name}={value!r})). Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def fix(self) -> None:
        """Refuse from now on that an argument is set."""
        self._used = True

    def bind_state(self, layer: Any) -> None:
        """Let a head keep this loss's numbers, among its weights: `layers.loss_state.LossState`."""
        layer.keep(self.first_state)
        self._kept = StateVariables(layer)

    def current_state(self, labels: Any, outputs: Any) -> dict[str, Any]:
        """Return the numbers for a batch; in training they move first, by this batch, and are kept.

        Without a head that keeps them, as where a loss is called by itself, they are those of
        `first_state`.
        """
        kept = self._kept
        if kept is None:
            return dict(self.first_state)
        values = {name: kept.layer.numbers[name].value for name in self.first_state}
        if kept.layer.in_training:
            values = self.moved(values, labels, outputs)
            for name, value in values.items():
                kept.layer.numbers[name].assign(value)
        return values

    def moved(self, values: dict[str, Any], labels: Any, outputs: Any) -> dict[str, Any]:
        """Return the numbers after a training step on this batch; no gradient goes through them."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's own arguments by name."""
        return {name: getattr(self, name) for name in self.options}

    def smoothing_in_words(self) -> str:
        """Return the end of `describe`: nothing where labels are not smoothed."""
        return f", label smoothing {self.label_smoothing:g}" if self.label_smoothing else ""

    def describe(self) -> str:
        """Return in words which margin and scale are really used."""
        raise NotImplementedError

    def per_example(self, labels: Any, outputs: Any) -> Any:
        """Return the loss of each example, `(batch,)`, for checked labels."""
        raise NotImplementedError

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, `(batch,)`."""
        self.fix()
        head_output.check_last_column(y_pred)
        biased = head_output.has_shared_bias(y_pred)
        if biased is not None and biased is not self.needs_shared_bias:
            raise ValueError(wrong_head(self))
        extra = 2 if self.needs_shared_bias else 1
        losses = self.per_example(check_labels(y_true, y_pred.shape[-1] - extra), y_pred)
        plain = ops.logical_not(y_pred[:, -1] > 0)  # NaN too, of a run that diverged
        return head_output.or_nan(losses, plain)  # XLA has dropped the check

    def __copy__(self) -> Self:
        """Copy the attributes as they are: Keras would go through a serialised form."""
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(self.__dict__, _used=False)
        return duplicate

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **self.arguments()}


def wrong_head(loss: Any) -> str:
    """Say which head a loss belongs to."""
    name = type(loss).__name__
    if loss.needs_shared_bias:
        return (
            f"{name} needs a head with a shared bias: AngularDense(num_classes, "
            'shared_bias="sphereface2"), or FaceClassifier(..., head="sphereface2"). '
            "Received: a head without one"
        )
    return (
        f"{name} needs a head without a bias: AngularDense(num_classes), or "
        'FaceClassifier(..., head="angular"). Received: a head with a shared bias, which is for '
        "SphereFace2Loss"
    )
