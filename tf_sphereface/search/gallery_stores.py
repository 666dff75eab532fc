"""The kinds of databases that keep a gallery, chosen by its address."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.approximate_search import ApproximateSearch
from tf_sphereface.search.exact_search import ExactSearch
from tf_sphereface.search.gallery_entries import record_checksum
from tf_sphereface.search.gallery_record import GalleryRecord, GalleryStore
from tf_sphereface.search.postgres_connection import is_server
from tf_sphereface.search.postgres_search import PostgresSearch
from tf_sphereface.search.postgres_store import PostgresStore
from tf_sphereface.search.sqlite_store import SqliteStore

Place = str | os.PathLike[str]
Search = Literal["exact", "usearch", "hnsw"]


def open_store(place: Place) -> SqliteStore | PostgresStore:
    """Return the store of a gallery: a file's, or a server's for `postgresql://...`."""
    return PostgresStore(str(place)) if is_server(place) else SqliteStore(place)


def create_store(place: Place, record: GalleryRecord) -> SqliteStore | PostgresStore:
    """Make a gallery there, whole or not at all.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    if is_server(place):
        return PostgresStore.create(str(place), record)
    return SqliteStore.create(place, record)


def gallery_exists(place: Place) -> bool:
    """Tell whether there is a gallery, or for a path any file."""
    return PostgresStore(str(place)).exists() if is_server(place) else Path(place).exists()


def shown_place(place: Place) -> str:
    """Return a gallery's address as it may be shown: without a password."""
    return str(PostgresStore(str(place))) if is_server(place) else str(place)


def copy_gallery(source: Place, target: Place) -> tuple[GalleryRecord, str]:
    """Copy a gallery into a new one of any kind; return it and its SHA-256, read from there.

    Raises:
        FileExistsError: there is a gallery at the target.
        ValueError: the source is damaged, or the target gives other contents back.
    """
    record = open_store(source).load()
    copied = create_store(target, record).load()
    checksums = [record_checksum(record), record_checksum(copied)]
    if checksums[0] != checksums[1]:
        raise ValueError(
            f"{shown_place(target)} gives other contents back than were written: do not use it"
        )
    return copied, checksums[1]


def make_search(
    kind: Search, store: GalleryStore, templates: NDArray[np.float32], names: Sequence[str]
) -> ExactSearch | ApproximateSearch:
    """Return the search over a gallery's templates (people, d)."""
    if kind == "hnsw":
        if not isinstance(store, PostgresStore):
            raise ValueError("Argument `search` must be 'exact' or 'usearch' for a file's gallery")
        return PostgresSearch(store, templates, names)
    return (ApproximateSearch if kind == "usearch" else ExactSearch)(templates)
