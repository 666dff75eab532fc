"""A gallery in a PostgreSQL database with pgvector."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.gallery_entries import (
    DamagedEntry,
    FaceEntry,
    checksum_of,
    fact_entry,
    grouped,
    new_entries,
    read_facts,
    read_record,
)
from tf_sphereface.search.gallery_record import GalleryChange, GalleryRecord, NewFaces, changed
from tf_sphereface.search.postgres_connection import Server
from tf_sphereface.utils.checks import check_integer

_LOCK = 0x53464741  # of those who make a gallery: "SFGA"
_LARGEST = 16_000  # numbers in a vector of pgvector
_FORMAT = 1
_SCHEMA = """
CREATE TABLE tf_sphereface_facts (
    name text PRIMARY KEY, value text NOT NULL, checksum bigint NOT NULL);
CREATE TABLE tf_sphereface_people (
    id bigint PRIMARY KEY, name text NOT NULL, stranger boolean NOT NULL, checksum bigint NOT NULL,
    UNIQUE (name, stranger));
CREATE TABLE tf_sphereface_faces (
    id bigint PRIMARY KEY, person bigint NOT NULL REFERENCES tf_sphereface_people (id),
    source text NOT NULL, embedding vector({dim}) NOT NULL, checksum bigint NOT NULL);
CREATE INDEX ON tf_sphereface_faces (person);
CREATE TABLE tf_sphereface_templates (
    person bigint PRIMARY KEY, checksum bigint NOT NULL, embedding vector({dim}) NOT NULL);
"""
_SUMS = """
SELECT (SELECT count(*) FROM tf_sphereface_people),
       (SELECT coalesce(sum(checksum), 0)::bigint FROM tf_sphereface_people),
       (SELECT count(*) FROM tf_sphereface_faces),
       (SELECT coalesce(sum(checksum), 0)::bigint FROM tf_sphereface_faces)
"""
_FACES = """
SELECT id, person, source, vector_send(embedding), checksum FROM tf_sphereface_faces ORDER BY id
"""


class PostgresStore:
    """A gallery on a PostgreSQL server, in the first schema of the connection's search path.

    A gallery is read whole when it is opened, so that a question is one product in memory and the
    answers are those of a gallery in a file. Every change is one transaction; any number of
    processes may read while one writes, and writers wait for each other. Who may only SELECT may
    open it.

    Args:
        url: `postgresql://user@host:port/database`, as libpq reads it; a password is better left to
            `~/.pgpass` or `PGPASSWORD`. `?options=-csearch_path%3DNAME` chooses a schema.

    Raises:
        ValueError: the address cannot be read.
        ImportError: the extra `postgres` is missing.
    """

    def __init__(self, url: str) -> None:
        self.server = Server(url)

    def __str__(self) -> str:
        return str(self.server)

    @classmethod
    def create(cls, url: str, record: GalleryRecord) -> PostgresStore:
        """Make a gallery, whole or not at all; the tables' names begin with `tf_sphereface_`.

        Raises:
            FileExistsError: there is a gallery.
            OSError: the server cannot be reached, has no pgvector, or refuses it.
        """
        store = cls(url)
        dim = check_integer("embedding_dim", record.dim, 1, _LARGEST)
        with store.server.transaction(write=True, lock=None, extension=True) as database:
            database.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if store.server.has_gallery(database):
                raise FileExistsError(f"{store} has a gallery; it is never written over")
            database.execute(_SCHEMA.format(dim=dim))
            _write_facts(database, {"format": _FORMAT, "dim": dim, **record.facts})
            for faces in grouped(record):
                _insert(database, faces)
            _write_sums(database)
        return store

    def exists(self) -> bool:
        """Tell whether there is a gallery; OSError where the server cannot be asked."""
        with contextlib.suppress(FileNotFoundError), self.server.transaction() as database:
            return self.server.has_gallery(database)
        return False

    def load(self) -> GalleryRecord:
        """Return the contents, as they were at one moment.

        Raises:
            FileNotFoundError: the database has no gallery.
            ValueError: the gallery is damaged, or of a later version.
            OSError: the server cannot be reached, or refuses it.
        """
        with self.server.transaction() as database:
            return self._read(database)

    def update(self, change: Callable[[GalleryRecord], GalleryChange]) -> GalleryRecord:
        """Change the contents, all or nothing, and return them; errors are those of `load`."""
        with self.server.transaction(write=True) as database:
            record = self._read(database)
            wanted = change(record)
            if wanted.removed:
                gone = "name = ANY(%s)"
                database.execute(
                    "DELETE FROM tf_sphereface_faces WHERE person IN "
                    f"(SELECT id FROM tf_sphereface_people WHERE {gone})",
                    [list(wanted.removed)],
                )
                database.execute(
                    "DELETE FROM tf_sphereface_templates WHERE person IN "
                    f"(SELECT id FROM tf_sphereface_people WHERE {gone})",
                    [list(wanted.removed)],
                )
                database.execute(
                    f"DELETE FROM tf_sphereface_people WHERE {gone}", [list(wanted.removed)]
                )
            for faces in wanted.added:
                _insert(database, faces)
            if wanted.facts is not None:
                _write_facts(database, wanted.facts)
            _write_sums(database)
            return changed(record, wanted)

    def write_templates(self, templates: NDArray[np.float32], names: Sequence[str]) -> list[int]:
        """Bring the server's templates and their index up to date; return the ids of the people.

        Only what differs is written, so that the index is not built again for one new person.

        Args:
            templates: (people, d), of unit length.
            names: (people,).
        """
        with self.server.transaction() as database:
            ids, wanted = _template_ids(database, templates, names)
            indexed = database.execute(
                "SELECT to_regclass('tf_sphereface_nearest') IS NOT NULL"
            ).fetchone()[0]
            if indexed and wanted == _stored_templates(database):
                return ids
        with self.server.transaction(write=True) as database:
            ids, wanted = _template_ids(database, templates, names)
            stored = _stored_templates(database)
            old = [person for person in stored if stored[person] != wanted.get(person)]
            database.execute("DELETE FROM tf_sphereface_templates WHERE person = ANY(%s)", [old])
            rows = (
                (person, wanted[person], template)
                for person, template in zip(ids, templates, strict=True)
                if person >= 0 and stored.get(person) != wanted[person]
            )
            _copy(database, "tf_sphereface_templates", ("int8", "int8", "vector"), rows)
            database.execute(
                "CREATE INDEX IF NOT EXISTS tf_sphereface_nearest ON tf_sphereface_templates "
                "USING hnsw (embedding vector_ip_ops) WITH (m = 32, ef_construction = 256)"
            )
        self.server.analyze("tf_sphereface_templates")
        return ids

    def _read(self, database: Any) -> GalleryRecord:
        """Return everything, each entry compared with its checksum."""
        if not self.server.has_gallery(database):
            raise FileNotFoundError(f"{self} has no gallery")
        query = "SELECT name, value, checksum FROM tf_sphereface_facts"
        try:
            facts = read_facts(database.execute(query))
            stated = facts.pop("format", None)
            if stated != _FORMAT:
                raise ValueError(
                    f"the gallery of {self} has the format {stated}, and this version of "
                    f"tf_sphereface reads {_FORMAT}"
                )
            sums = database.execute(_SUMS).fetchone()
            people = database.execute(
                "SELECT id, name, stranger, checksum FROM tf_sphereface_people ORDER BY id"
            )
            return read_record(facts, sums, people, _faces(database))
        except DamagedEntry as error:
            raise ValueError(
                f"the gallery of {self} is damaged: {error}. Take a copy, or enroll again"
            ) from error


def _faces(database: Any) -> Iterator[FaceEntry]:
    """Yield the faces, a few thousand at a time; pgvector sends big-endian float32."""
    with database.cursor(name="tf_sphereface", binary=True) as cursor:
        cursor.itersize = 4096
        cursor.execute(_FACES)
        for face, person, source, sent, checksum in cursor:
            blob = np.frombuffer(sent, ">f4", offset=4).astype("<f4").tobytes()
            yield face, person, source, blob, checksum


def _insert(database: Any, faces: NewFaces) -> None:
    """Write faces, and the people they need."""
    query = "SELECT name, id FROM tf_sphereface_people WHERE stranger = %s"
    numbers = dict(database.execute(query, [faces.strangers]).fetchall())
    free = [
        database.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0]
        for table in ("tf_sphereface_people", "tf_sphereface_faces")
    ]
    people, entries = new_entries(faces, numbers, *free)
    _copy(database, "tf_sphereface_people", ("int8", "text", "bool", "int8"), people)
    rows = (
        (face, person, source, np.frombuffer(blob, "<f4"), checksum)
        for face, person, source, blob, checksum in entries
    )
    _copy(database, "tf_sphereface_faces", ("int8", "int8", "text", "vector", "int8"), rows)


def _copy(database: Any, table: str, types: Sequence[str], rows: Any) -> None:
    """Write rows into a table by COPY, vectors as their float32 numbers."""
    with (
        database.cursor() as cursor,
        cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _write_facts(database: Any, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        database.execute(
            "INSERT INTO tf_sphereface_facts VALUES (%s, %s, %s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, checksum = excluded.checksum",
            fact_entry(name, value),
        )


def _write_sums(database: Any) -> None:
    """Note how many people and faces there are, and the sums of their checksums."""
    _write_facts(database, {"sums": list(database.execute(_SUMS).fetchone())})


def _template_ids(
    database: Any, templates: NDArray[np.float32], names: Sequence[str]
) -> tuple[list[int], dict[int, int]]:
    """Return the id of each person, -1 for one who is gone, and id -> checksum of the template."""
    query = "SELECT name, id FROM tf_sphereface_people WHERE NOT stranger"
    numbers = dict(database.execute(query).fetchall())
    ids = [numbers.get(name, -1) for name in names]
    return ids, {
        person: checksum_of("", np.ascontiguousarray(template, "<f4").tobytes())
        for person, template in zip(ids, templates, strict=True)
        if person >= 0
    }


def _stored_templates(database: Any) -> dict[int, int]:
    rows = database.execute("SELECT person, checksum FROM tf_sphereface_templates")
    return dict(rows.fetchall())
