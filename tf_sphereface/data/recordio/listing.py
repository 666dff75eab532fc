"""The images of a RecordIO file, listed by person, as packing takes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.pack.listing import Listing
from tf_sphereface.data.recordio.reading import RecordFile
from tf_sphereface.utils.files import atomic_path

_CHUNK = 1 << 16


def by_person(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return positions in the order of the people, those of each in the order they have.

    Example:

    >>> by_person(np.array([1, 0, 1])).tolist()
    [1, 0, 2]
    """
    return np.argsort(labels, kind="stable").astype(np.int64)


def list_records(records: RecordFile, target: Path) -> Listing:
    """List a RecordIO file into `target` and `target` + ".ends", as `write_listing` a folder."""
    order = by_person(records.labels)
    digest = hashlib.sha256()
    total = written = 0
    ends_path = target.with_name(target.name + ".ends")
    with (
        atomic_path(target) as lines_path,
        atomic_path(ends_path) as offsets_path,
        lines_path.open("wb") as lines,
        offsets_path.open("wb") as offsets,
    ):
        for begin in range(0, len(order), _CHUNK):
            piece = order[begin : begin + _CHUNK]
            names = [f"{name}\n".encode() for name in records.image_names(piece)]
            sizes = records.spans(piece).astype("<u8")
            ends = written + np.cumsum(np.fromiter(map(len, names), np.uint64, len(names)))
            text = b"".join(names)
            lines.write(text)
            offsets.write(ends.astype("<u8").tobytes())
            digest.update(text + sizes.tobytes())
            written += len(text)
            total += int(sizes.sum())
    return Listing(
        records.path,
        target,
        np.memmap(ends_path, "<u8", "r"),
        records.names,
        np.cumsum(records.counts(), dtype=np.int64),
        total,
        digest.hexdigest(),
    )
