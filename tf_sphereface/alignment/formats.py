"""Formats of image files, told by their bytes: what a file is, how many pictures, which way up."""

from __future__ import annotations

import re

_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftypheim", b"ftyphevc")
_AVIF = (b"ftypavif", b"ftypavis")
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    *(b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"),
)

_BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))


def begins_as_image(begin: bytes) -> bool:
    """Tell by the first 64 bytes whether a file is an image of a format that is read here."""
    return (
        begin.startswith(_BEGINNINGS)
        or (begin[:4] == b"RIFF" and begin[8:12] == b"WEBP")
        or begin[4:12] in _AVIF
        or is_heic(begin)
        or (begin[:2] == b"BM" and begin[14:18] in _BMP_HEADERS)
        or re.match(rb"P[1-6]\s[#\s\d]", begin) is not None
    )


def is_heic(data: bytes) -> bool:
    """Tell whether a file is one of Apple's HEIC photographs, whatever its suffix."""
    return data[4:12] in _HEIC and b"avif" not in data[:64]


def is_avif(data: bytes) -> bool:
    """Tell whether a file is an AVIF."""
    return data[4:12] in _AVIF or (data[4:12] in _HEIC and b"avif" in data[:64])


def count_frames(data: bytes) -> int:
    """Return how many pictures an image file holds; more than 1 are an animation or pages.

    Of an animated AVIF that is 2, and of formats that hold one picture, or are too broken, 1.
    """
    try:
        if data[:4] == b"GIF8":
            return _count_gif(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            place = data.find(b"acTL", 0, max(data.find(b"IDAT"), 0))
            return int.from_bytes(data[place + 4 : place + 8], "big") if place > 0 else 1
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return data.count(b"ANMF") if data[12:16] == b"VP8X" and data[20] & 2 else 1
        if data[4:12] == b"ftypavis":
            return 2
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _count_tiff(data)
    except IndexError:
        pass
    return 1


def _count_gif(data: bytes) -> int:
    """Go through the blocks of a GIF."""

    def skip_blocks(place: int) -> int:
        while data[place]:
            place += 1 + data[place]
        return place + 1

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    place, frames = 13 + table(data[10]), 0
    while place < len(data) and data[place] in (0x21, 0x2C):
        if data[place] == 0x2C:
            frames += 1
            place = skip_blocks(place + 11 + table(data[place + 9]))
        else:
            place = skip_blocks(place + 2)
    return max(frames, 1)


def _count_tiff(data: bytes) -> int:
    """Follow the directories of a TIFF; reduced copies of the picture are no pages."""
    order = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        if place + size > len(data):
            raise IndexError
        return int.from_bytes(data[place : place + size], order)  # type: ignore[arg-type]

    pages, place, seen = 0, number(4, 4), set()
    while place and place not in seen:
        seen.add(place)
        entries = number(place, 2)
        tags = {number(place + 2 + 12 * i, 2): place + 2 + 12 * i for i in range(entries)}
        reduced = 254 in tags and number(tags[254] + 8, 4) & 1
        pages += not reduced
        place = number(place + 2 + 12 * entries, 4)
    return max(pages, 1)


def avif_turns(data: bytes) -> tuple[int, int | None]:
    """Return how a viewer turns an AVIF: quarters to the left, then a mirror axis or None.

    The axis is 0 where top and bottom change places, 1 where left and right do.
    """
    begin = data[: 1 << 16]
    turn, mirror = begin.find(b"\0\0\0\x09irot"), begin.find(b"\0\0\0\x09imir")
    return (
        begin[turn + 8] & 3 if turn >= 0 else 0,
        begin[mirror + 8] & 1 if mirror >= 0 else None,
    )
