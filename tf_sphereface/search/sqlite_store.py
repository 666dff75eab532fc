"""A gallery in one SQLite file, with a checksum over everything in it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tf_sphereface.search.gallery_entries import (
    DamagedEntry,
    fact_entry,
    grouped,
    new_entries,
    read_facts,
    read_record,
)
from tf_sphereface.search.gallery_record import GalleryChange, GalleryRecord, NewFaces, changed
from tf_sphereface.utils.files import atomic_path

_MARK = 0x53464741  # SQLite's application_id: "SFGA"
_VERSION = 1
_WAIT = 60.0  # seconds for another process to finish writing
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE people (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, stranger INTEGER NOT NULL,
    checksum INTEGER NOT NULL, UNIQUE (name, stranger)
);
CREATE TABLE faces (
    id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people (id), source TEXT NOT NULL,
    embedding BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE INDEX faces_of_person ON faces (person);
"""
_SUMS = """
SELECT (SELECT count(*) FROM people), (SELECT coalesce(sum(checksum), 0) FROM people),
       (SELECT count(*) FROM faces), (SELECT coalesce(sum(checksum), 0) FROM faces)
"""


class SqliteStore:
    """A gallery's file.

    Every change is one transaction: a process that is killed, or a full disk, leaves the file as it
    was. Any number of processes may read while one writes. SQLite itself notices no changed bytes
    in its tables, so each entry has a checksum, and the checksums a sum.

    Args:
        path: a file that `create` has made.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no gallery {self.path}")

    @classmethod
    def create(cls, path: str | os.PathLike[str], record: GalleryRecord) -> SqliteStore:
        """Write a new file, private to its user, which appears whole or not at all.

        Raises:
            FileExistsError: there is a file of that name.
            OSError: it cannot be written.
        """
        if Path(path).exists():
            raise FileExistsError(f"{path} exists already; a gallery is never written over")
        with atomic_path(path) as temporary:
            with _connection(temporary, create=True) as database:
                database.executescript(
                    f"PRAGMA application_id = {_MARK}; PRAGMA user_version = {_VERSION};"
                    f"BEGIN;{_SCHEMA}COMMIT;"
                )
                database.execute("BEGIN IMMEDIATE")
                _write_facts(database, {"dim": record.dim, **record.facts})
                for faces in grouped(record):
                    _insert(database, faces)
                _write_sums(database)
                database.execute("COMMIT")
            temporary.chmod(0o600)  # embeddings are biometric data
            if Path(path).exists():  # another process was faster
                raise FileExistsError(f"{path} exists already; a gallery is never written over")
        return cls(path)

    def load(self) -> GalleryRecord:
        """Return the contents.

        Raises:
            ValueError: the file is no gallery, is damaged, or of a later version.
            OSError: it cannot be read.
        """
        with _connection(self.path) as database:
            database.execute("BEGIN")
            return _read(database, self.path)

    def update(self, change: Callable[[GalleryRecord], GalleryChange]) -> GalleryRecord:
        """Change the contents, all or nothing, and return them; errors are those of `load`."""
        with _connection(self.path) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                record = _read(database, self.path)
                wanted = change(record)
                for name in wanted.removed:
                    query = "FROM people WHERE name = ?"
                    for (person,) in database.execute(f"SELECT id {query}", [name]).fetchall():
                        database.execute("DELETE FROM faces WHERE person = ?", [person])
                    database.execute(f"DELETE {query}", [name])
                for faces in wanted.added:
                    _insert(database, faces)
                if wanted.facts is not None:
                    _write_facts(database, wanted.facts)
                _write_sums(database)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            return changed(record, wanted)


@contextlib.contextmanager
def _connection(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a file, and say in our words what SQLite complains about."""
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"  # rw: may roll back
    try:
        database = sqlite3.connect(uri, uri=True, timeout=_WAIT, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")  # who is removed is gone from the file
            yield database
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        reason = str(error)
        if "locked" in reason or "busy" in reason:
            raise OSError(f"{path}: another process has been writing for {_WAIT:.0f} s") from error
        if "no such" in reason or "decode" in reason or "malformed" in reason:
            raise _damaged(path, reason) from error
        raise OSError(f"{path}: {reason}") from error
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise ValueError(f"{path} is no gallery, and no SQLite file") from error
        raise _damaged(path, error) from error
    except UnicodeError as error:  # Python cannot decode what SQLite says of a damaged schema
        raise _damaged(path, error) from error


def _damaged(path: Path, what: object) -> ValueError:
    return ValueError(f"{path} is damaged: {what}. Take a copy, or enroll again")


def _read(database: sqlite3.Connection, path: Path) -> GalleryRecord:
    """Return everything, each entry compared with its checksum."""
    try:
        return _compared(database, path)
    except DamagedEntry as error:
        raise _damaged(path, error) from error
    except (TypeError, KeyError, AttributeError, OverflowError, UnicodeError) as error:
        raise _damaged(path, f"an entry is of another kind ({error})") from error


def _compared(database: sqlite3.Connection, path: Path) -> GalleryRecord:
    """Read everything; entries of another kind than was written may raise anything."""
    if database.execute("PRAGMA application_id").fetchone()[0] != _MARK:
        raise ValueError(f"{path} is no gallery of tf_sphereface-search")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        raise ValueError(
            f"{path} has the format {version}, and this version of tf_sphereface reads {_VERSION}"
        )
    pages, size = (database.execute(f"PRAGMA page_{x}").fetchone()[0] for x in ("count", "size"))
    if path.stat().st_size < pages * size:
        raise _damaged(path, "its end is missing")
    return read_record(
        read_facts(database.execute("SELECT * FROM facts")),
        database.execute(_SUMS).fetchone(),
        database.execute("SELECT * FROM people ORDER BY id"),
        database.execute("SELECT * FROM faces ORDER BY id"),
    )


def _insert(database: sqlite3.Connection, faces: NewFaces) -> None:
    """Write faces, and the people they need."""
    query = "SELECT name, id FROM people WHERE stranger = ?"
    numbers = dict(database.execute(query, [faces.strangers]))
    free = [
        database.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0]
        for table in ("people", "faces")
    ]
    people, entries = new_entries(faces, numbers, *free)
    database.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", people)
    database.executemany("INSERT INTO faces VALUES (?, ?, ?, ?, ?)", entries)


def _write_facts(database: sqlite3.Connection, facts: dict[str, Any]) -> None:
    entries = [fact_entry(name, value) for name, value in facts.items()]
    database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", entries)


def _write_sums(database: sqlite3.Connection) -> None:
    """Note how many people and faces there are, and the sums of their checksums."""
    _write_facts(database, {"sums": list(database.execute(_SUMS).fetchone())})
