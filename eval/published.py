"""Published figures, to stand beside measured ones and be told apart from them."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure somebody else has published.

    Attributes:
        protocol: `"lfw"` or `"ytf"`.
        what: network, loss and training data.
        accuracy: the figure, or the lowest of several; a fraction.
        highest: the highest of several, else None.
        source: where it stands.
    """

    protocol: str
    what: str
    accuracy: float
    highest: float | None
    source: str


_TABLE = "the table in the CosFace paper"
_PAPER = "the SphereFace paper, by a translation"
FIGURES = (
    Published("lfw", "SphereFace-64, A-Softmax, CASIA-WebFace", 0.9942, None, _TABLE),
    Published("lfw", "the same network, softmax", 0.9788, None, _TABLE),
    Published("lfw", "SphereFace-20, A-Softmax, five runs", 0.9913, 0.9930, "the authors' README"),
    Published("lfw", "SphereFace-20, reproductions", 0.9897, 0.9922, "independent repositories"),
    Published("lfw", "SphereFace-4, A-Softmax", 0.9820, None, _PAPER),
    Published("lfw", "the same network, softmax", 0.9660, None, _PAPER),
    Published("ytf", "SphereFace-64, A-Softmax, CASIA-WebFace", 0.950, None, _TABLE),
    Published("ytf", "the same network, softmax", 0.931, None, _TABLE),
)
FULL_SIZE = {"lfw": 6000, "ytf": 5000}  # pairs of the protocol that they were measured on


def published_for(protocol: str) -> list[dict[str, Any]]:
    """Return the figures of a protocol as plain values; none for one that nobody has published on.

    Example:

    >>> [figure["accuracy"] for figure in published_for("ytf")]
    [0.95, 0.931]
    """
    return [dataclasses.asdict(figure) for figure in FIGURES if figure.protocol == protocol]
