"""The paper's solver: momentum SGD with weight decay and rates parameter by parameter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tf_sphereface.optimizers.multipliers import (
    PAPER_MULTIPLIERS,
    ParameterRates,
    check_multipliers,
)
from tf_sphereface.utils.checks import error

PAPER_TOTAL = 28000
"""Updates of the paper's training on CASIA-WebFace."""
PAPER_BOUNDARIES = (16000, 24000)
"""Updates after which the paper divides the learning rate by 10."""


@keras.saving.register_keras_serializable(package="tf_sphereface")
class SphereFaceSGD(ParameterRates, keras.optimizers.SGD):
    """SGD with momentum, coupled weight decay, and rates parameter by parameter, as in Caffe.

    For a weight `w` with gradient `g` and multipliers `lr_mult`, `decay_mult`:

    ```
    g' = g + weight_decay * decay_mult * w
    v  = momentum * v - learning_rate * lr_mult * g'
    w  = w + v
    ```

    The decay is part of the gradient, so momentum smooths it; Keras' own `weight_decay` shrinks the
    weights beside the momentum, ten times weaker at momentum 0.9. The loss that is reported has no
    regularisation term in it. Clipping acts on `g`, before the decay. The decay is added once an
    update: under a `tf.distribute` strategy after the sum over replicas, with
    `gradient_accumulation_steps` to the mean, with loss scaling after the gradient is unscaled.

    Args:
        learning_rate: a float, or a schedule.
        momentum: in [0, 1].
        weight_decay: the factor of `w` in the gradient, at least 0. 5e-4 equals
            `keras.regularizers.L2(2.5e-4)`.
        multipliers: rules `(pattern, lr_mult, decay_mult)`. The first whose regular expression is
            found in a weight's path (such as `"conv1_1/bias"`) holds; a weight without a rule has
            1/1; `lr_mult` 0 freezes it. Default: `PAPER_MULTIPLIERS`. `()`: all weights 1/1.
        nesterov: as in `keras.optimizers.SGD`.
        **kwargs: what every Keras optimizer takes: `clipnorm`, `clipvalue`, `global_clipnorm`,
            `use_ema`, `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: a negative decay or multiplier, or a pattern that is no regular expression.

    Example:

    >>> from tf_sphereface.backbones import SphereFaceNet
    >>> from tf_sphereface.optimizers import match_multipliers
    >>> optimizer = SphereFaceSGD(learning_rate=0.1, weight_decay=5e-4)
    >>> backbone = SphereFaceNet(4, input_shape=(32, 32, 3))
    >>> match_multipliers(backbone.trainable_variables, optimizer.multipliers)["conv1_1/bias"]
    (2.0, 0.0)

    Source: the solver and network files of the authors' released Caffe code; Caffe's `SGDSolver`
    (clip, regularise, then momentum).
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        weight_decay: float | None = 5e-4,
        multipliers: Iterable[Sequence[Any]] | None = None,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        if weight_decay is not None and not weight_decay >= 0:
            raise error("weight_decay", "be at least 0, or None", weight_decay)
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            **kwargs,
        )
        self.multipliers = check_multipliers(
            PAPER_MULTIPLIERS if multipliers is None else multipliers
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        lr_mult, decay = self.factors(variable)
        if lr_mult == 0.0:
            return
        if decay != 0.0:
            gradient = keras.ops.add(
                keras.ops.cast(gradient, variable.dtype),
                keras.ops.multiply(variable, keras.ops.cast(decay, variable.dtype)),
            )
        super().update_step(gradient, variable, learning_rate * lr_mult)


def paper_optimizer(
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    boundaries: Sequence[float] | None = None,
    total: int = PAPER_TOTAL,
    **kwargs: Any,
) -> SphereFaceSGD:
    """Return the paper's solver: the rate is divided by 10 twice on the way.

    Args:
        learning_rate: the first rate. The paper's 0.1 is for batches of 512; for the small nets and
            batches of this project's examples 0.05 is a good start.
        weight_decay: coupled, see `SphereFaceSGD`.
        momentum: in [0, 1].
        boundaries: after how many updates the rate is divided by 10: integers are updates, floats
            in (0, 1) are fractions of `total`. Default: the paper's 16,000 and 24,000 of 28,000,
            as the same fractions (4/7, 6/7) of `total`; a run of 3 updates or fewer has no room
            for both.
        total: updates of the whole run. It only places the boundaries.
        **kwargs: passed to `SphereFaceSGD`: `multipliers`, `global_clipnorm`,
            `gradient_accumulation_steps` (boundaries still count updates) and so on.

    Returns:
        A `SphereFaceSGD` whose `learning_rate` is a schedule.

    Raises:
        ValueError: `total` is not positive, or boundaries are not increasing within it.

    Example:

    >>> optimizer = paper_optimizer(total=2000)    # 0.1, from update 1143 on 0.01, from 1714 0.001
    >>> optimizer.momentum
    0.9

    Source: the solver file of the authors' released Caffe code.
    """
    if not total > 0:
        raise error("total", "be positive", total)
    if boundaries is None:
        scaled = {round(boundary / PAPER_TOTAL * total) for boundary in PAPER_BOUNDARIES}
        boundaries = sorted(step for step in scaled if 0 < step < total)
    steps = [round(b * total) if isinstance(b, float) and 0 < b < 1 else b for b in boundaries]
    if (
        any(int(step) != step or step <= 0 for step in steps)
        or any(a >= b for a, b in itertools.pairwise(steps))
        or (steps and steps[-1] >= total)
    ):
        raise ValueError(
            "Argument `boundaries` must be increasing numbers of updates (integers) or parts of "
            "`total` (floats), all inside (0, total). "
            f"Received: boundaries={boundaries}, total={total}"
        )
    # Keras' schedule counts batches from 0 and keeps a value up to and including its boundary. The
    # update number u (from 0) is applied with batch u * accumulation + accumulation - 1.
    accumulation = kwargs.get("gradient_accumulation_steps") or 1
    schedule: Any = float(learning_rate)
    if steps:
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            [int(step) * accumulation - 1 for step in steps],
            [float(learning_rate) * 0.1**i for i in range(len(steps) + 1)],
        )
    return SphereFaceSGD(schedule, momentum, weight_decay, **kwargs)
