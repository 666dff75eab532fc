"""What others have published, to stand beside what is measured here; never mixed with it."""

from __future__ import annotations

# LFW and YTF in percent on CASIA-WebFace with SphereFace-64. A mark says where a figure is from.
TABLE = "the table in the CosFace paper"
RECALLED = "recalled, not checked against a source"
MARKS = {"*": TABLE, "†": RECALLED, "‡": "the SphereFace paper, by a translation"}
BY_MARGIN = {
    "softmax": "97.88*",
    "m = 1": "97.90†",
    "m = 2": "98.40†",
    "m = 3": "99.25†",
    "m = 4": "99.42*",
}
BY_DEPTH = {
    ("softmax", 4): "96.60‡",
    ("m = 4", 4): "98.20‡",
    ("softmax", 64): "97.75‡",
    ("m = 4", 64): "99.42‡",
}


def legend(*marks: str) -> str:
    """Say what marks mean.

    Example:

    >>> legend("*")
    '* the table in the CosFace paper.'
    """
    return "; ".join(f"{mark} {MARKS[mark]}" for mark in marks) + "."
