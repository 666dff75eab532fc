"""Rates and decay parameter by parameter: rules on the names of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tf_sphereface.utils import keras_private

Multiplier = tuple[str, float, float]
"""A pattern of variable paths, and the multipliers of rate and decay where it fits."""

PAPER_MULTIPLIERS: tuple[Multiplier, ...] = (
    (r"(^|/)conv\d+_(?!1/)\d+/bias$", 0.0, 0.0),
    (r"(^|/)bias$", 2.0, 0.0),
    (r"(^|/)(gamma|beta)$", 1.0, 0.0),
)
"""Rules `(pattern, lr_mult, decay_mult)` of the authors' solver, for names as `SphereFaceNet` has.

Biases of residual units are frozen at 0, other biases learn twice as fast and do not decay, and
what no rule matches is 1/1: kernels, PReLU slopes (they decay too) and the head. The authors' nets
have no batch normalisation; its scale and offset (`MobileFaceNet`) learn at 1 and do not decay,
because a decaying scale would only shrink activations that the next normalisation grows again.
"""

DECOUPLED_MULTIPLIERS: tuple[Multiplier, ...] = (
    (r"(^|/)conv\d+_(?!1/)\d+/bias$", 0.0, 0.0),
    (r"(^|/)((shared_)?bias|gamma|beta|alpha)$", 1.0, 0.0),
)
"""Rules for `FaceAdamW` and `FaceMuon`: kernels and class centres decay, all others do not.

Biases of residual units are frozen at 0 as in the paper; other biases (SphereFace2's shared one
too), scales and offsets of normalisation, and PReLU slopes learn at 1 and do not decay.
"""


class ParameterRates(keras.optimizers.Optimizer):
    """The part of an optimizer that knows each weight's own rate and decay.

    A subclass sets `multipliers` and reads `factors` in its `update_step`, where it applies the
    decay as well: Keras' own, which knows one rate for all, is off.
    """

    multipliers: tuple[Multiplier, ...]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of each of `variables` and look up its multipliers."""
        if self.built:
            return
        super().build(variables)
        self._factors = {}
        for variable in variables:
            lr_mult, decay_mult = _lookup(variable.path, self.multipliers)
            if not keras_private.decays(self, variable):  # Keras' exclude_from_weight_decay()
                decay_mult = 0.0
            self._factors[keras_private.variable_key(self, variable)] = (lr_mult, decay_mult)

    def factors(self, variable: Any) -> tuple[float, float]:
        """Return a weight's `(lr_mult, decay_mult * weight_decay)`."""
        lr_mult, decay_mult = self._factors[keras_private.variable_key(self, variable)]
        return lr_mult, (self.weight_decay or 0.0) * decay_mult

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Do nothing: the decay is in `update_step`."""

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config["multipliers"] = [list(rule) for rule in self.multipliers]
        return config


def match_multipliers(
    variables: Iterable[keras.Variable], multipliers: Iterable[Sequence[Any]]
) -> dict[str, tuple[float, float]]:
    """Show which multipliers each variable gets, to check one's own rules.

    Args:
        variables: such as `model.trainable_variables`.
        multipliers: rules `(pattern, lr_mult, decay_mult)`, the first match holds.

    Returns:
        `{path: (lr_mult, decay_mult)}`.

    Example:

    >>> import keras
    >>> dense = keras.layers.Dense(2, name="head")
    >>> dense.build((None, 3))
    >>> match_multipliers(dense.variables, [("kernel$", 10.0, 1.0)])
    {'head/kernel': (10.0, 1.0), 'head/bias': (1.0, 1.0)}
    """
    rules = check_multipliers(multipliers)
    return {variable.path: _lookup(variable.path, rules) for variable in variables}


def check_multipliers(multipliers: Iterable[Sequence[Any]]) -> tuple[Multiplier, ...]:
    """Return the rules as tuples, or raise `ValueError` naming the one that is wrong.

    Example:

    >>> check_multipliers([["bias$", 2, 0]])
    (('bias$', 2.0, 0.0),)
    """
    rules = []
    for rule in multipliers:
        try:
            pattern, lr_mult, decay_mult = rule
            re.compile(pattern)
            checked = (pattern, float(lr_mult), float(decay_mult))
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(
                "Argument `multipliers` must hold rules (regular expression, lr_mult, decay_mult). "
                f"Received: {rule!r} ({error})"
            ) from error
        if not min(checked[1:]) >= 0:
            raise ValueError(
                f"Argument `multipliers` must not hold negative factors. Received: {rule!r}"
            )
        rules.append(checked)
    return tuple(rules)


def _lookup(path: str, rules: Sequence[Multiplier]) -> tuple[float, float]:
    """Return `(lr_mult, decay_mult)` of the first rule found in `path`."""
    for pattern, lr_mult, decay_mult in rules:
        if re.search(pattern, path):
            return lr_mult, decay_mult
    return 1.0, 1.0
