"""The header of an image inside a record: its label, and where the encoded image begins.

`flag` uint32, `label` float32, `id` uint64, `id2` uint64; where flag > 0, as many float32 labels
follow and `label` is 0. Behind it lies the encoded image, or nothing: record 0 and the ranges at
the end of insightface's files hold two labels and no image.

Source: MXNet, `python/mxnet/recordio.py`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<IfQQ")
_BEGIN = struct.Struct("<If")
_FLOAT = struct.Struct("<f")
_PAIR = struct.Struct("<ff")
INEXACT = 1 << 24  # float32 holds every integer up to here
MOST = 1 << 31


class Content(NamedTuple):
    """What a record says it holds.

    Attributes:
        label: the person's number; -1 where the record holds no image.
        pair: the two labels of a record without an image, such as record 0.
        reason: why it is of no use; empty where it is.
    """

    label: int
    pair: tuple[float, float] | None = None
    reason: str = ""


def read_content(head: bytes, length: int) -> Content:
    """Return what a record holds, from the first bytes of its payload and its length.

    Example:

    >>> read_content(image_header(7, 1), length=5000).label
    7
    """
    if length < HEADER.size or len(head) < HEADER.size:
        return Content(-1, reason=f"{length} bytes are too few for the header of an image")
    flag, label = _BEGIN.unpack_from(head)
    begin = HEADER.size + 4 * flag
    if begin > length:
        return Content(-1, reason=f"its header promises {flag:,} labels, more than it holds")
    if begin == length:
        if flag < 2:
            return Content(-1, reason="there is no image in it")
        return Content(-1, pair=_PAIR.unpack_from(head, HEADER.size))
    if flag:
        (label,) = _FLOAT.unpack_from(head, HEADER.size)
    if not (0 <= label < MOST and label % 1 == 0):
        return Content(-1, reason=f"its label, {label:g}, is no person's number")
    return Content(int(label))


def image_of(payload: bytes) -> bytes:
    """Return the encoded image of a record, behind its header."""
    if len(payload) < HEADER.size:
        return b""
    return payload[HEADER.size + 4 * _BEGIN.unpack_from(payload)[0] :]


def image_header(label: int, key: int) -> bytes:
    """Return the header of an image with one label."""
    return HEADER.pack(0, label, key, 0)


def pair_header(first: int, second: int, key: int) -> bytes:
    """Return a record of two labels and no image. Numbers that float32 lacks are rounded down."""
    return HEADER.pack(2, 0.0, key, 0) + _PAIR.pack(_below(first), _below(second))


def _below(value: int) -> float:
    """Return the largest float32 that is not above an integer from 0 on."""
    shift = max(0, value.bit_length() - 24)
    return float(value >> shift << shift)
