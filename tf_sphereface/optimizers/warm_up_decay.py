"""A learning rate that rises, then falls to the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from tf_sphereface.utils.checks import check_choice, check_integer, check_number, error

Decay = Literal["step", "cosine", "polynomial"]
"""How a learning rate falls after the warm-up; see `WarmUpDecay`."""


@keras.saving.register_keras_serializable(package="tf_sphereface")
class WarmUpDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises over the first updates, then falls over the rest of a run.

    Update u, counted from 0, of a run of T updates, W of them warm-up, has the rate
    `learning_rate * min(1, (u + 1) / W) * decay`, where with `f = max(0, u - W) / (T - W)` the
    decay is `(1 + cos(pi f)) / 2` ("cosine"), `(1 - f) ** power` ("polynomial"), or 1/10 for each
    of `drops` that u has reached ("step"; they count from the start of the run). It is never
    negative: from update T on, cosine and polynomial are 0, and a run of W updates or fewer only
    warms up. A pure function of u, so a resumed run has the rates of one that was not stopped.
    With `gradient_accumulation_steps` Keras counts batches, so `total`, `warm_up` and `drops` are
    in batches too.

    Args:
        learning_rate: at the end of the warm-up, > 0.
        total: updates of the run, >= 1.
        decay: `"step"`, `"cosine"` or `"polynomial"`.
        warm_up: updates, >= 0.
        power: of `"polynomial"`, > 0. Default 1, a straight line.
        drops: of `"step"`: after how many updates the rate is divided by 10, increasing.

    Raises:
        ValueError: an argument is out of its range, or belongs to another decay.

    Example:

    >>> rate = WarmUpDecay(0.1, total=10, decay="polynomial", warm_up=2)
    >>> [round(float(rate(u)), 4) for u in (0, 1, 2, 6, 9, 10)]
    [0.05, 0.1, 0.1, 0.05, 0.0125, 0.0]
    """

    def __init__(
        self,
        learning_rate: float,
        total: int,
        decay: Decay = "cosine",
        *,
        warm_up: int = 0,
        power: float = 1.0,
        drops: Sequence[int] = (),
        name: str = "warm_up_decay",
    ) -> None:
        super().__init__()
        self.learning_rate = check_number("learning_rate", learning_rate, 0.0, open_low=True)
        self.total = check_integer("total", total, 1)
        self.decay = check_choice("decay", decay, get_args(Decay))
        self.warm_up = check_integer("warm_up", warm_up, 0)
        self.power = check_number("power", power, 0.0, open_low=True)
        self.drops = [check_integer("drops", drop, 1) for drop in drops]
        self.name = name
        if self.drops != sorted(set(self.drops)):
            raise error("drops", "increase", drops)
        if self.drops and decay != "step":
            raise error("drops", 'be left out but for decay="step"', drops)

    def __call__(self, step: Any) -> Any:
        """Return the rate of the update that `step` updates came before: a float32 tensor."""
        step = ops.cast(step, "int64")
        rate = ops.cast(self.learning_rate, "float32")
        if self.decay == "step":
            rates = [self.learning_rate * 0.1**i for i in range(len(self.drops) + 1)]
            reached = sum((ops.cast(step >= drop, "int32") for drop in self.drops), 0)
            rate = ops.take(ops.convert_to_tensor(rates, "float32"), reached)
        else:
            after = ops.cast(ops.maximum(step - self.warm_up, 0), "float32")
            share = ops.minimum(after / max(self.total - self.warm_up, 1), 1.0)
            if self.decay == "cosine":
                rate = rate * ops.maximum(0.5 * (1.0 + ops.cos(math.pi * share)), 0.0)
            else:
                rate = rate * (1.0 - share) ** self.power
        if not self.warm_up:
            return rate
        return rate * ops.minimum(ops.cast(step + 1, "float32") / self.warm_up, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("learning_rate", "total", "decay", "warm_up", "power", "drops", "name")
        return {name: getattr(self, name) for name in names}
