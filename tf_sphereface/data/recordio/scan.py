"""The scan of a RecordIO file: where its images lie, of whom they are, and what is damaged."""

from __future__ import annotations

import dataclasses
import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import MAX_BYTES
from tf_sphereface.data.recordio.downloads import what_it_is
from tf_sphereface.data.recordio.framing import walk
from tf_sphereface.data.recordio.image_header import INEXACT, read_content
from tf_sphereface.utils.files import RandomAccessFile
from tf_sphereface.utils.messages import ProgressCallback

# 16 bytes per image: the offset of its record, the record's bytes in the file, the person.
IMAGES = np.dtype([("offset", "<u8"), ("span", "<u4"), ("label", "<i4")])
OTHERS = np.dtype([("record", "<u4"), ("offset", "<u8")])
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Damage:
    """What cannot be read of a RecordIO file.

    Attributes:
        record: its number in the file, from 0 on.
        offset: where it begins, in bytes.
        reason: one line.
    """

    record: int
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"record {self.record} at offset {self.offset}: {self.reason}"


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What is known of a RecordIO file.

    Attributes:
        size: its bytes.
        images: `IMAGES` (n,), in the order of the file.
        people: int64, ascending: the labels in the file; the positions here are the classes.
        others: `OTHERS`, the records without a usable image: record 0, ranges, damaged ones.
        damage: what cannot be read, in the order of the file.
        header: the two labels of record 0, where it holds no image.
        sizes: "HEIGHTxWIDTH" -> number of images, once every image has been decoded.
        broken: row of `images` -> why it cannot be decoded, likewise.
    """

    size: int
    images: NDArray[np.void]
    people: NDArray[np.int64]
    others: NDArray[np.void]
    damage: tuple[Damage, ...]
    header: tuple[float, float] | None = None
    sizes: dict[str, int] | None = None
    broken: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def records(self) -> int:
        """Number of records, those that cannot be read included."""
        return len(self.images) + len(self.others)

    def numbers(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the numbers in the file of the records of some rows of `images`."""
        before = self.others["record"].astype(np.int64) - np.arange(len(self.others))
        return np.asarray(rows, np.int64) + np.searchsorted(before, rows, side="right")

    def rows(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the rows of `images` of records that hold an image."""
        return np.asarray(numbers, np.int64) - np.searchsorted(self.others["record"], numbers)

    def promised(self) -> int | None:
        """Return how many images record 0 counts, None where there is no such record.

        float32 rounds from 16,777,216 on, and some writers are one off: so may this be.
        """
        first = math.nan if self.header is None else float(self.header[0])
        return int(first) - 1 if 1 <= first < 2**32 else None

    def notes(self) -> list[str]:
        """Say what is unusual about labels and counts, a line each; nothing of it is damage."""
        found = []
        if len(self.people) and self.people[-1] != len(self.people) - 1:
            found.append(
                f"the labels have gaps, from {self.people[0]} to {self.people[-1]} for "
                f"{len(self.people):,} people: classes are numbered in the order of the labels"
            )
        if len(self.people) and self.people[-1] >= INEXACT:
            found.append(
                f"labels reach {self.people[-1]}: from {INEXACT:,} on float32 cannot hold every "
                "number, and two people may have become one"
            )
        promised = self.promised()
        if promised is not None and len(self.images) > promised + _slack(promised):
            found.append(
                f"record 0 counts {promised:,} images, {len(self.images):,} are there and are used"
            )
        return found


def scan_file(path: Path, progress: ProgressCallback | None = None) -> Scan:
    """Read the headers of all records.

    `progress` is called with (bytes, size of the file).

    Raises:
        ValueError: it is no RecordIO file, or no record of it holds an image.
    """
    file, size = RandomAccessFile(path), path.stat().st_size
    beginning = file.read(0, 512)
    known = what_it_is(beginning)
    if known is not None:
        raise ValueError(f"{path} is {known}")
    offsets, spans, labels = array("Q"), array("I"), array("i")
    others: list[tuple[int, int]] = []
    damage: list[Damage] = []
    header = None
    for number, record in enumerate(walk(file, size, progress)):
        label, reason = -1, record.reason
        if not reason and record.length > MAX_BYTES:
            reason = f"{record.length:,} bytes are too many for an image"
        if not reason:
            label, pair, reason = read_content(record.head, record.length)
            if number == 0:
                header = pair
        if reason:
            damage.append(Damage(number, record.offset, reason))
        if label < 0:
            others.append((number, record.offset))
            continue
        offsets.append(record.offset)
        spans.append(record.span)
        labels.append(label)
    if not offsets:
        detail = f": {damage[0]}" if damage else ""
        raise ValueError(
            f"{path} holds no image that can be read, so it is no RecordIO file of faces{detail}"
        )
    images = np.empty(len(offsets), IMAGES)
    images["offset"], images["span"] = offsets, spans
    people = np.unique(np.frombuffer(labels, np.int32))
    for begin in range(0, len(labels), _CHUNK):
        piece = np.frombuffer(labels, np.int32)[begin : begin + _CHUNK]
        images["label"][begin : begin + _CHUNK] = np.searchsorted(people, piece)
    scan = Scan(
        size,
        images,
        people.astype(np.int64),
        np.array(others, OTHERS),
        tuple(damage),
        header,
    )
    return dataclasses.replace(scan, damage=(*damage, *_missing(scan)))


def _missing(scan: Scan) -> list[Damage]:
    """Return what record 0 counts and the file lacks: a download that ends between two records."""
    promised = scan.promised()
    there = len(scan.images) + sum(entry.record > 0 for entry in scan.damage)
    if promised is None or there >= promised - _slack(promised):
        return []
    reason = f"record 0 counts {promised:,} images, {there:,} are there: the file is cut off"
    return [Damage(scan.records, scan.size, reason)]


def _slack(count: int) -> float:
    """Return by how many images a count may be off for its writer or float32 alone."""
    return max(1.0, float(np.spacing(np.float32(count))))


def facts_of(scan: Scan) -> dict[str, Any]:
    """Return what JSON holds of a scan, beside its arrays, for `from_arrays`."""
    return {
        "size": scan.size,
        "damage": [dataclasses.astuple(entry) for entry in scan.damage],
        "header": scan.header,
        "sizes": scan.sizes,
        "broken": list(scan.broken.items()),
    }


def from_arrays(arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Scan:
    """Return a scan from its parts; KeyError, TypeError, ValueError: they are none of one."""
    if arrays["images"].dtype != IMAGES or arrays["others"].dtype != OTHERS:
        raise ValueError("the arrays are of another version")
    header = facts["header"]
    return Scan(
        int(facts["size"]),
        arrays["images"],
        arrays["people"],
        arrays["others"],
        tuple(Damage(*entry) for entry in facts["damage"]),
        None if header is None else (float(header[0]), float(header[1])),
        facts["sizes"],
        {int(row): str(why) for row, why in facts["broken"]},
    )
