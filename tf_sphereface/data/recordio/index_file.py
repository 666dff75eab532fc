"""The .idx file beside a RecordIO file, and `property`: compared with it, never relied on.

Offsets and labels come from the .rec itself. An .idx is a line per record, `key TAB offset`; it may
be unsorted, have gaps between its keys, CRLF, or keys like `3.0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.recordio.downloads import what_it_is
from tf_sphereface.data.recordio.scan import Scan

_BLOCK = 1 << 22  # bytes of text at a time


@dataclasses.dataclass(frozen=True)
class Property:
    """What insightface's file `property` says: `classes,height,width`."""

    classes: int
    height: int
    width: int


def read_property(path: Path) -> Property | None:
    """Return the `property` beside a RecordIO file; None where there is none.

    Raises ValueError if it says something else than three numbers.
    """
    file = path.with_name("property")
    if not file.is_file():
        return None
    with file.open("rb") as handle:
        text = handle.read(200).decode("utf-8-sig", "replace").strip()
    try:
        classes, height, width = (int(float(word)) for word in text.split(","))
    except (ValueError, OverflowError):
        raise ValueError(
            "the file `property` must say classes,height,width, and is not used. "
            f"Received: {text[:40]!r}"
        ) from None
    return Property(classes, height, width)


def index_path(path: Path) -> Path:
    """Return where the .idx of a RecordIO file is looked for."""
    return path.with_suffix(".idx")


def compare_index(path: Path, scan: Scan) -> str | None:
    """Say what is wrong with the .idx beside a RecordIO file; None: nothing, or there is none."""
    index = index_path(path)
    if not index.is_file():
        return None
    with index.open("rb") as handle:
        known = what_it_is(handle.read(512))
    if known is not None:
        return f"it is {known}"
    begins = np.concatenate([scan.images["offset"], scan.others["offset"]]).astype(np.float64)
    begins.sort()
    listed = np.zeros(len(begins), bool)
    counts = _Counts(path.name, scan.size, scan.records)
    for number, offsets in _blocks(index):
        at = np.minimum(np.searchsorted(begins, offsets), len(begins) - 1)
        good = begins[at] == offsets
        listed[at[good]] = True
        counts.add(number, offsets, good)
    return counts.verdict(int(listed.sum()))


@dataclasses.dataclass
class _Counts:
    """What the lines of an .idx are worth, counted."""

    name: str
    size: int
    records: int
    lines: int = 0
    unreadable: int = 0
    beyond: int = 0
    wrong: int = 0  # numbers inside the file where no record begins
    first: str = ""

    def add(self, number: int, offsets: NDArray[np.float64], good: NDArray[np.bool_]) -> None:
        """Count some lines, the first of which has a number; `good` ones are a record's."""
        readable, beyond = np.isfinite(offsets), offsets >= self.size
        self.lines += len(offsets)
        self.unreadable += int((~readable).sum())
        self.beyond += int((readable & beyond).sum())
        self.wrong += int((readable & ~beyond & ~good).sum())
        if not self.first and not good.all():
            place = int(np.argmin(good))
            value = f"offset {offsets[place]:.0f}" if readable[place] else "unreadable"
            self.first = f"the first is line {number + place}, {value}"

    def verdict(self, listed: int) -> str | None:
        """Put the counts into words; None where nothing is wrong."""
        if self.unreadable == self.lines:
            return "it holds no line `key TAB offset`; it is not needed"
        of_all = f"of its {self.lines:,}"
        if listed <= 1 < min(self.lines, self.records):
            return f"it belongs to another file: the offsets {of_all} lines are not {self.name}'s"
        found = []
        if self.beyond:
            found.append(
                f"{self.beyond:,} {of_all} offsets lie behind the end of {self.name}, "
                f"{self.size:,}: that file is cut off, or of another version ({self.first})"
            )
        if self.wrong:
            found.append(f"{self.wrong:,} {of_all} offsets are no record's ({self.first})")
        if self.unreadable:
            found.append(f"{self.unreadable:,} {of_all} lines are no `key TAB offset`")
        if listed < self.records:
            found.append(f"it lists {listed:,} of the {self.records:,} records; all are used")
        return "; ".join(found) or None


def _blocks(index: Path) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the number of a line, from 1 on, and the offsets of it and those behind it.

    An offset is NaN where a line has none. float64 holds offsets to 2^53.
    """
    number, rest = 1, b""
    with index.open("rb") as handle:
        while block := handle.read(_BLOCK):
            text, _, rest = (rest + block).rpartition(b"\n")
            if text:
                offsets = _offsets(text)
                yield number, offsets
                number += len(offsets)
    if rest.strip():
        yield number, _offsets(rest)


def _offsets(text: bytes) -> NDArray[np.float64]:
    """Return the offsets of some lines; blank lines are passed over."""
    lines = [line for line in text.splitlines() if line.strip(b" \t\0\xef\xbb\xbf")]
    words = b"\n".join(lines).split()
    if len(words) == 2 * len(lines):
        try:
            return np.array(words[1::2]).astype(np.float64) if words else np.empty(0)
        except ValueError:
            pass  # line by line below
    return np.array([_offset(line) for line in lines], np.float64)


def _offset(line: bytes) -> float:
    words = line.split()
    try:
        return float(words[1]) if len(words) == 2 else float("nan")
    except ValueError:
        return float("nan")
