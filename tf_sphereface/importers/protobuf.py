"""The wire format of protocol buffers: enough to read weights, and safe on any bytes.

Nothing is copied: a length-delimited value is a view of the data. Every length is compared with
what is left, so that a hostile file can neither allocate memory nor read beyond its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
_LARGEST_FIELD = (1 << 29) - 1


class WireError(ValueError):
    """The bytes are no protocol buffer, or a truncated one."""


class Field(NamedTuple):
    """One field as it is on the wire: the value is an int for `VARINT`, else a view of bytes."""

    number: int
    wire: int
    value: int | memoryview

    def message(self) -> memoryview:
        """Return the bytes of a length-delimited value."""
        if self.wire != BYTES or isinstance(self.value, int):
            raise WireError(f"field {self.number} has wire type {self.wire}, expected {BYTES}")
        return self.value

    def text(self) -> str:
        """Return a string's value."""
        try:
            return bytes(self.message()).decode("utf-8")
        except UnicodeDecodeError:
            raise WireError(f"field {self.number} is no UTF-8 text") from None


def read_fields(data: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order, without entering the messages inside it.

    Example:

    >>> [tuple(field)[:2] for field in read_fields(memoryview(bytes([8, 150, 1, 18, 0])))]
    [(1, 0), (2, 2)]

    Source: "Encoding", the protocol buffers' documentation.
    """
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if not 1 <= number <= _LARGEST_FIELD:
            raise WireError(f"field number {number} at byte {position}")
        value: int | memoryview
        if wire == VARINT:
            value, position = _varint(data, position)
        else:
            if wire == BYTES:
                length, position = _varint(data, position)
            elif wire in _FIXED:
                length = _FIXED[wire]
            else:
                raise WireError(f"wire type {wire} at byte {position}")
            if length > end - position:
                raise WireError(
                    f"truncated: field {number} needs {length:,} bytes and {end - position:,} "
                    "are left"
                )
            value = data[position : position + length]
            position += length
        yield Field(number, wire, value)


def read_integers(field: Field) -> list[int]:
    """Return the numbers of a repeated integer field, packed or one of them."""
    if isinstance(field.value, int):
        return [field.value]
    packed, position = field.message(), 0
    numbers = []
    while position < len(packed):
        number, position = _varint(packed, position)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned integer at a position, and the position behind it."""
    value = 0
    for place in range(10):
        if position >= len(data):
            raise WireError("truncated inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position
    raise WireError(f"a number longer than 64 bits before byte {position}")
