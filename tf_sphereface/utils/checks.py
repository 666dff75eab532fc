"""Checks of arguments: each returns the value, or raises a `ValueError` that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Value = TypeVar("Value")


def error(name: str, expected: str, value: Any) -> ValueError:
    """Return the error that every check raises.

    Example:

    >>> error("scale", "be positive", -1.0)
    ValueError('Argument `scale` must be positive. Received: scale=-1.0')
    """
    return ValueError(f"Argument `{name}` must {expected}. Received: {name}={value!r}")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return a float in [low, high) - (low, high) with `open_low` - or raise ValueError.

    Example:

    >>> check_number("sample_rate", 0.5, 0, 1.01, open_low=True)
    0.5
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not (low < value < high or (value == low and not open_low)):
        bracket = "(" if open_low else "["
        raise error(name, f"be a number in {bracket}{low:g}, {high:g})", value)
    return float(value)


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer from `low` to `high` (both allowed), or raise ValueError.

    Example:

    >>> check_integer("batch_size", 128, 1)
    128
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    within = number and value == value // 1 and value >= low and (high is None or value <= high)
    if not within:
        limits = f">= {low}" if high is None else f"from {low} to {high}"
        raise error(name, f"be an integer {limits}", value)
    return int(value)


def check_choice(name: str, value: Value, choices: Sequence[Any]) -> Value:
    """Return one of several values, or raise ValueError.

    Example:

    >>> check_choice("augment", "mirror", ("none", "mirror"))
    'mirror'
    """
    if value not in choices:
        raise error(name, f"be one of {', '.join(map(repr, choices))}", value)
    return value


def check_image_size(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width), positive integers, or raise ValueError.

    Example:

    >>> check_image_size("image_size", [112, 96])
    (112, 96)
    """
    try:
        height, width = (check_integer(name, side, 1) for side in value)
    except (TypeError, ValueError):
        raise error(name, "be (height, width), two positive integers", value) from None
    return height, width
