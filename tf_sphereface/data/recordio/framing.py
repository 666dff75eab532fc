"""Frames of RecordIO: where each record of a file lies, and its payload.

A record is the magic number, `part << 29 | length` (both uint32, little-endian), the payload, and
zeros up to a multiple of 4 bytes. A payload with the magic at a multiple of 4 bytes is written as
several frames - part 1, any number of 2, then 3 - which are joined with the magic between them.

Source: dmlc-core, `include/dmlc/recordio.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tf_sphereface.utils.files import RandomAccessFile
from tf_sphereface.utils.messages import ProgressCallback

MAGIC = struct.pack("<I", 0xCED7230A)
FRAME = 8  # bytes of magic and length
HEAD = 32  # bytes of a payload that a scan looks at: flag, label, ids, two more labels
LONGEST = (1 << 29) - 1  # bytes of a part
WHOLE, FIRST, MIDDLE, LAST = range(4)
_WORDS = struct.Struct("<II")
_FLAG = struct.Struct("<I")
_MAGIC_NUMBER = 0xCED7230A
_WINDOW = 1 << 25  # bytes that the system is asked to fetch ahead
_CHUNK = 1 << 20  # bytes in which a lost frame is looked for


class Record(NamedTuple):
    """A record of a file, or bytes of it that are none.

    Attributes:
        offset: where its first frame begins.
        span: bytes in the file from there to the end of its last payload, without padding.
        length: bytes of the payload, parts joined.
        head: the first bytes of the payload, `HEAD` at most.
        reason: why it cannot be read; empty where it can.
    """

    offset: int
    span: int
    length: int
    head: bytes
    reason: str = ""


def walk(
    file: RandomAccessFile, size: int, progress: ProgressCallback | None = None
) -> Iterator[Record]:
    """Go through the records of a file of `size` bytes, by their frames alone.

    Where no record begins, the next one is looked for, and the bytes between are one `Record` with
    a reason. A record that reaches into the next one has lost some of its bytes.

    `progress` is called with (bytes, size).
    """
    place = ahead = 0
    last: Record | None = None  # held back until the frame behind it shows that it is whole
    while place < size:
        if place >= ahead:
            file.announce(place, 2 * _WINDOW)
            ahead = place + _WINDOW
            if progress is not None:
                progress(place, size)
        head = file.read(place, FRAME + HEAD)
        part, length = _frame(head)
        end = place + FRAME + length
        if part == WHOLE and end <= size:
            if last is not None:
                yield last
            last = Record(place, FRAME + length, length, head[FRAME : FRAME + length])
            place = _padded(place, end)
        elif part in (FIRST, MIDDLE, LAST) and end <= size:
            if last is not None:
                yield last
            last, place = _split(file, size, place, part)
            if last.reason:
                yield last
                last = None
        else:
            found = _next_record(file, place + 1 if last is None else last.offset + FRAME, size)
            yield from _around_a_gap(last, place, found, size, head)
            last, place = None, size if found is None else found
    if last is not None:
        yield last
    if progress is not None:
        progress(size, size)


def payload(record: bytes) -> bytes:
    """Return the payload of a record, from its bytes in the file.

    Raises:
        ValueError: they are not the frames of one record; the message is the reason alone.

    Example:

    >>> payload(frames(b"face"))
    b'face'
    """
    part, length = _frame(record)
    if part == WHOLE and FRAME + length == len(record):
        return record[FRAME:]
    parts: list[bytes] = []
    place = 0
    while place < len(record):
        part, length = _frame(record[place : place + FRAME])
        expected = (FIRST,) if not parts else (MIDDLE, LAST)
        if part not in expected or place + FRAME + length > len(record):
            break
        parts.append(record[place + FRAME : place + FRAME + length])
        if part == LAST:
            return MAGIC.join(parts)
        place = _padded(place, place + FRAME + length)
    raise ValueError("no record is where one was: the file has changed, or cannot be read")


def frames(content: bytes) -> bytes:
    """Return a payload as a record is written, padded, in parts where it holds the magic.

    Example:

    >>> frames(b"face").hex()
    '0a23d7ce0400000066616365'
    """
    cuts, place = [], content.find(MAGIC)
    while place >= 0:
        if place % 4 == 0:
            cuts.append(place)
        place = content.find(MAGIC, place + (4 if place % 4 == 0 else 1))
    begins, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(content)]
    written = bytearray()
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        part = MIDDLE
        if not cuts:
            part = WHOLE
        elif number in (0, len(cuts)):
            part = FIRST if number == 0 else LAST
        if end - begin > LONGEST:
            raise ValueError(f"a record must be below 512 MB. Received: {len(content):,} bytes")
        written += MAGIC + _FLAG.pack(part << 29 | (end - begin)) + content[begin:end]
        written += bytes(-len(written) % 4)
    return bytes(written)


def _frame(head: bytes) -> tuple[int, int]:
    """Return part and length of the frame at the beginning of some bytes; (-1, 0): there is none.

    What is no frame has a part that is none of the four.
    """
    if len(head) < FRAME:
        return -1, 0
    magic, word = _WORDS.unpack_from(head)
    return (word >> 29, word & LONGEST) if magic == _MAGIC_NUMBER else (-1, 0)


def _padded(begin: int, end: int) -> int:
    """Return where the frame behind one from `begin` to `end` begins."""
    return end + -(end - begin) % 4


def _split(file: RandomAccessFile, size: int, begin: int, part: int) -> tuple[Record, int]:
    """Return the record of several parts that begins at a place, and where to go on."""
    place, length, head, reason = begin, 0, b"", ""
    if part != FIRST:
        reason = "it is a later part of a record whose beginning is lost"
    while True:
        found = file.read(place, FRAME + HEAD)
        part, count = _frame(found)
        end = place + FRAME + count
        expected = (FIRST,) if place == begin and not reason else (MIDDLE, LAST)
        if part not in expected or end > size:
            return Record(begin, place - begin, 0, b"", reason or "its later parts are lost"), place
        joint = b"" if place == begin else MAGIC
        length += len(joint) + count
        head += joint + found[FRAME : FRAME + count]
        place = _padded(place, end)
        if part == LAST:
            return Record(begin, end - begin, length, head[:HEAD], reason), place


def _around_a_gap(
    last: Record | None, place: int, found: int | None, size: int, head: bytes
) -> Iterator[Record]:
    """Yield the record before a place where none begins, and the bytes up to the next one."""
    end = size if found is None else found
    if last is not None and end < last.offset + last.span:
        lost = last.offset + last.span - end
        reason = f"it lacks {lost:,} of its {last.span:,} bytes: the next record begins before"
        yield last._replace(span=end - last.offset, reason=reason)
        return
    if last is not None:
        yield last
    if end <= place:  # written without padding
        return
    part, length = _frame(head)
    if found is None and part in (WHOLE, FIRST, MIDDLE, LAST):
        reason = f"the file ends after {end - place:,} of its {FRAME + length:,} bytes"
    elif not head.strip(b"\0") and found is None:
        reason = f"no record begins here; the last {end - place:,} bytes hold none"
    else:
        reason = f"no record begins here, nor in the next {end - place:,} bytes"
    yield Record(place, end - place, 0, b"", reason)


def _next_record(file: RandomAccessFile, begin: int, size: int) -> int | None:
    """Return the first place from `begin` on where a record begins and another frame follows it."""
    while begin < size:
        chunk = file.read(begin, _CHUNK)
        if not chunk:
            return None
        place = chunk.find(MAGIC)
        while place >= 0:
            if _is_record(file, begin + place, size):
                return begin + place
            place = chunk.find(MAGIC, place + 1)
        begin += max(len(chunk) - 3, 1)
    return None


def _is_record(file: RandomAccessFile, place: int, size: int) -> bool:
    """Tell whether the bytes at a place are a record rather than the magic by chance."""
    head = file.read(place, FRAME + 4)
    part, length = _frame(head)
    end = place + FRAME + length
    if part not in (WHOLE, FIRST) or end > size or len(head) < FRAME + 4:
        return False
    if part == WHOLE and 24 + 4 * _FLAG.unpack_from(head, FRAME)[0] > length:
        return False
    behind = _padded(place, end)
    return behind >= size or any(file.read(at, 4) == MAGIC for at in {end, behind})
