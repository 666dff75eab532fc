"""Entries of a gallery's database with their checksums, and the record that they make."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tf_sphereface.search.gallery_record import GalleryRecord, NewFaces
from tf_sphereface.utils.messages import printable

FactEntry = tuple[str, str, int]  # name, JSON text, checksum
PersonEntry = tuple[int, str, bool, int]  # id, name, whether a stranger, checksum
FaceEntry = tuple[int, int, str, bytes, int]  # id, person, source, float32 (d,), checksum


class DamagedEntry(ValueError):
    """An entry that differs from its checksum, or is missing."""


def checksum_of(text: str, data: bytes = b"") -> int:
    """Return the CRC-32 of an entry's text and bytes."""
    return zlib.crc32(data, zlib.crc32(text.encode("utf-8")))


def fact_entry(name: str, value: Any) -> FactEntry:
    """Return the entry of one fact."""
    text = json.dumps(value)
    return name, text, checksum_of(f"{name}\n{text}")


def new_entries(
    faces: NewFaces, people: dict[str, int], next_person: int, next_face: int
) -> tuple[list[PersonEntry], list[FaceEntry]]:
    """Return the entries of new faces, and of the people they need.

    Args:
        faces: to add.
        people: name -> id of those who are there, strangers or not as `faces` are.
        next_person: the first free id of a person.
        next_face: the first free id of a face.
    """
    known, persons, entries = dict(people), list[PersonEntry](), list[FaceEntry]()
    for name, vector, source in zip(faces.names, faces.vectors, faces.sources, strict=True):
        if name not in known:
            known[name] = next_person + len(persons)
            checksum = checksum_of(f"{known[name]}\n{int(faces.strangers)}\n{name}")
            persons.append((known[name], name, faces.strangers, checksum))
        text, blob = printable(source), np.ascontiguousarray(vector, "<f4").tobytes()
        face, person = next_face + len(entries), known[name]
        checksum = checksum_of(f"{face}\n{person}\n{text}", blob)
        entries.append((face, person, text, blob, checksum))
    return persons, entries


def read_facts(entries: Iterable[FactEntry]) -> dict[str, Any]:
    """Return the facts, among them `dim` and `sums`.

    Raises:
        DamagedEntry: one differs from its checksum, or `dim` or `sums` is missing.
    """
    facts: dict[str, Any] = {}
    for name, text, checksum in entries:
        if checksum != checksum_of(f"{name}\n{text}"):
            raise DamagedEntry(f"the entry {name!r} differs from its checksum")
        facts[name] = json.loads(text)
    if not {"dim", "sums"} <= facts.keys():
        raise DamagedEntry("entries are missing")
    return facts


def read_record(
    facts: dict[str, Any],
    sums: Iterable[int],
    people: Iterable[PersonEntry],
    faces: Iterable[FaceEntry],
) -> GalleryRecord:
    """Return the record that entries make.

    Args:
        facts: of `read_facts`.
        sums: how many people there are, the sum of their checksums, and the same of the faces.
        people: in the order of their ids.
        faces: likewise.

    Raises:
        DamagedEntry: an entry differs from its checksum, or there are too few or too many.
    """
    facts = dict(facts)
    dim, stated = facts.pop("dim"), facts.pop("sums")
    if list(sums) != stated:
        raise DamagedEntry("people or faces are missing, or too many")
    place: dict[int, int] = {}
    names: list[str] = []
    strangers: list[bool] = []
    for person, name, stranger, checksum in people:
        if checksum != checksum_of(f"{person}\n{int(stranger)}\n{name}"):
            raise DamagedEntry(f"the name {name!r} differs from its checksum")
        place[person] = len(names)
        names.append(name)
        strangers.append(bool(stranger))
    count = stated[2]
    vectors, owner = np.empty((count, dim), np.float32), np.empty(count, np.int64)
    sources: list[str] = []
    for row, (face, person, source, blob, checksum) in enumerate(faces):
        right = row < count and len(blob) == 4 * dim and person in place
        if not right or checksum != checksum_of(f"{face}\n{person}\n{source}", blob):
            raise DamagedEntry(f"the face {source!r} differs from its checksum")
        vectors[row] = np.frombuffer(blob, "<f4")
        owner[row] = place[person]
        sources.append(source)
    if len(sources) != count:
        raise DamagedEntry("faces are missing")
    return GalleryRecord(
        facts, tuple(names), np.array(strangers, bool), vectors, owner, tuple(sources)
    )


def record_checksum(record: GalleryRecord) -> str:
    """Return the SHA-256 of all that a gallery holds, equal in every kind of database."""
    digest = hashlib.sha256(json.dumps(record.facts, sort_keys=True).encode())
    for faces in grouped(record):
        digest.update(json.dumps([faces.names, list(map(printable, faces.sources))]).encode())
        digest.update(np.ascontiguousarray(faces.vectors, "<f4").tobytes())
    return digest.hexdigest()


def grouped(record: GalleryRecord) -> list[NewFaces]:
    """Return the faces of the enrolled, and those of the strangers."""
    groups = []
    for stranger in (False, True):
        faces = np.flatnonzero(record.is_stranger[record.owner] == stranger)
        names = [record.names[record.owner[face]] for face in faces]
        sources = [record.sources[face] for face in faces]
        groups.append(NewFaces(names, record.vectors[faces], sources, stranger))
    return groups
