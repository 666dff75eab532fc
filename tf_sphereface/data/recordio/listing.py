"""The images of a RecordIO file, listed by person, as packing takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.pack.listing import Listing, store_listing
from tf_sphereface.data.recordio.reading import RecordFile

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
    pieces = (order[begin : begin + _CHUNK] for begin in range(0, len(order), _CHUNK))
    blocks = (
        ([name.encode() for name in records.image_names(piece)], records.spans(piece))
        for piece in pieces
    )
    return store_listing(records.path, target, blocks, records.names, records.counts())
