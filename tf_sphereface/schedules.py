"""The schedule of lambda."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = [
    "LambdaAnnealing",
]

ALMOST_ZERO = 0.05  # where a curve of powers, which never reaches 0, counts as there


@keras.saving.register_keras_serializable(package="tf_sphereface")
class LambdaAnnealing:
    """The annealing of the released A-Softmax layer.

    `lambda(it) = max(minimum, base * (1 + gamma * it) ** -power)`, with `it` counted from 1 on the
    first update. Training starts as (almost) plain softmax with unit class centres and the margin
    comes in slowly; without that, the loss stays at `ln(num_classes)`.

    Args:
        base: lambda's scale, > 0. Default 1000.
        gamma: decay per update, >= 0. Default 0.12.
        power: exponent of the decay, >= 0. Default 1.
        minimum: lambda never falls below it, >= 0. Default 5, reached at update 1659. The margin
            that is felt at the end depends on it: see `angular.effective_margin`.

    Raises:
        ValueError: an argument is out of its range.

    Source: the authors' Caffe layer (`margin_inner_product_layer`); the paper's section 4.1 names
    the method without the formula.

    Example:

    >>> annealing = LambdaAnnealing()
    >>> round(annealing(1), 3), annealing(1659)
    (892.857, 5.0)
    """

    def __init__(
        self,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        minimum: float = 5.0,
    ) -> None:
        if not base > 0:
            raise ValueError(f"Argument `base` must be positive. Received: base={base!r}")
        for name, value in (("gamma", gamma), ("power", power), ("minimum", minimum)):
            if not value >= 0:
                raise ValueError(
                    f"Argument `{name}` must not be negative. Received: {name}={value!r}"
                )
        self.base = float(base)  # each of them once: see __setattr__
        self.gamma = float(gamma)
        self.power = float(power)
        self.minimum = float(minimum)

    @classmethod
    def for_steps(
        cls,
        total: int,
        reach: float = 0.4,
        base: float = 1000.0,
        power: float = 1.0,
        minimum: float = 5.0,
    ) -> LambdaAnnealing:
        """Return the same curve, scaled to reach its minimum after a share of a run.

        Args:
            total: number of updates of the whole run, >= 1.
            reach: share of the run after which the minimum is reached, in (0, 1]. Default 0.4.
            base: as in the constructor.
            power: as in the constructor, > 0.
            minimum: as in the constructor, in (0, base).

        Returns:
            A `LambdaAnnealing` whose gamma fits the run.

        Raises:
            ValueError: an argument is out of its range.

        Example:

        >>> LambdaAnnealing.for_steps(1000)(400)
        5.0
        """
        if not total >= 1:
            raise ValueError(f"Argument `total` must be at least 1. Received: total={total!r}")
        if not 0 < reach <= 1:
            raise ValueError(f"Argument `reach` must be in (0, 1]. Received: reach={reach!r}")
        if not 0 < minimum < base or not power > 0:
            raise ValueError(
                "A minimum is reached only if 0 < minimum < base and power > 0. "
                f"Received: minimum={minimum!r}, base={base!r}, power={power!r}"
            )
        gamma = ((base / minimum) ** (1.0 / power) - 1.0) / (reach * total)
        # A hair above, so that rounding cannot leave lambda above the minimum at that very update.
        return cls(base, gamma * (1.0 + 1e-12), power, minimum)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute once: a compiled training step would not see another value."""
        if name in self.__dict__:
            raise AttributeError(
                "A LambdaAnnealing is fixed: a training step that is compiled would go on with "
                "the old curve. Compile the model with a new loss that has a new LambdaAnnealing("
                f"{name}=...). Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __call__(self, it: Any) -> Any:
        """Return lambda for update `it` (from 1): a float for a number, else a float32 tensor."""
        if isinstance(it, int | float):
            return max(self.minimum, self.base * (1.0 + self.gamma * it) ** -self.power)
        count = ops.cast(it, "float32")
        return ops.maximum(self.minimum, self.base * (1.0 + self.gamma * count) ** -self.power)

    def get_config(self) -> dict[str, float]:
        """Return the constructor's arguments."""
        return {
            "base": self.base,
            "gamma": self.gamma,
            "power": self.power,
            "minimum": self.minimum,
        }

    @classmethod
    def from_config(cls, config: dict[str, float]) -> LambdaAnnealing:
        """Return the schedule that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        """Two schedules are equal when their arguments are."""
        return isinstance(other, LambdaAnnealing) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        """Hash the arguments."""
        return hash(tuple(self.get_config().items()))

    def __repr__(self) -> str:
        """Show the call that makes this schedule."""
        arguments = ", ".join(f"{key}={value:g}" for key, value in self.get_config().items())
        return f"LambdaAnnealing({arguments})"
