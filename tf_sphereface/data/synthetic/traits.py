"""Dataclass fields that state the normal distribution which their value is drawn from."""

from __future__ import annotations

import dataclasses
from typing import Any


def drawn(mean: float, standard_deviation: float) -> Any:
    """Return a dataclass field for a number of this normal distribution."""
    return dataclasses.field(metadata={"normal": (mean, standard_deviation)})


def distributions(cls: type) -> dict[str, tuple[float, float]]:
    """Return the (mean, standard deviation) of each such field, in the order of the fields.

    Example:

    >>> @dataclasses.dataclass
    ... class Nose:
    ...     width: float = drawn(7.2, 1.25)
    ...     name: str
    >>> distributions(Nose)
    {'width': (7.2, 1.25)}
    """
    fields = dataclasses.fields(cls)
    return {field.name: field.metadata["normal"] for field in fields if "normal" in field.metadata}
