"""What a gallery holds, a change of it, and the interface of what keeps it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.exact_search import unit_rows

CHANGING = threading.RLock()  # held by the thread that changes a gallery
SAME_PICTURE = 1 - 1e-6  # cosine from which two embeddings of a person are one picture's
MOST_COMPARED = 2**30  # pairs of faces, in which pictures of two people are looked for


@dataclasses.dataclass(frozen=True, eq=False)
class GalleryRecord:
    """The contents of a gallery.

    Attributes:
        facts: what is known of the model, the wanted rate and the threshold; plain JSON values.
        names: of the people, in the order in which they came.
        is_stranger: bool (people,): kept for the threshold alone, and never named.
        vectors: float32 (faces, d), as the network gave them.
        owner: int64 (faces,), position in `names`.
        sources: (faces,) where each face comes from.
    """

    facts: dict[str, Any]
    names: tuple[str, ...]
    is_stranger: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    owner: NDArray[np.int64]
    sources: tuple[str, ...]

    @classmethod
    def empty(cls, dim: int, facts: dict[str, Any]) -> GalleryRecord:
        """Return a gallery of nobody, for embeddings (d,) of this length."""
        vectors, owner = np.zeros((0, dim), np.float32), np.zeros(0, np.int64)
        return cls(facts, (), np.zeros(0, bool), vectors, owner, ())

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.vectors.shape[1])

    def people(self) -> tuple[list[str], NDArray[np.float32], NDArray[np.int64]]:
        """Return the names of the enrolled, their unit vectors (n, d) and the owners (n,)."""
        return self._group(stranger=False)

    def strangers(self) -> tuple[list[str], NDArray[np.float32], NDArray[np.int64]]:
        """Return the same of the strangers."""
        return self._group(stranger=True)

    def _group(self, *, stranger: bool) -> tuple[list[str], NDArray[np.float32], NDArray[np.int64]]:
        people = np.flatnonzero(self.is_stranger == stranger)
        place = np.full(len(self.names), -1, np.int64)
        place[people] = np.arange(len(people))
        faces = np.flatnonzero(place[self.owner] >= 0)
        names = [self.names[person] for person in people]
        return names, unit_rows(self.vectors[faces]), place[self.owner[faces]]


@dataclasses.dataclass(frozen=True, eq=False)
class NewFaces:
    """Faces to add: names (n,), float32 vectors (n, d), sources (n,), of strangers or not."""

    names: Sequence[str]
    vectors: NDArray[np.float32]
    sources: Sequence[str]
    strangers: bool = False

    def new_in(self, record: GalleryRecord) -> NewFaces:
        """Leave out pictures that their person has already, there or here."""
        names, vectors, owner = record.strangers() if self.strangers else record.people()
        wanted = set(self.names)
        known: dict[str, _Rows] = {}
        for vector, person in zip(vectors, owner, strict=True):
            if names[person] in wanted:
                known.setdefault(names[person], _Rows(vectors.shape[1])).add(vector)
        kept = []
        for place, (name, vector) in enumerate(
            zip(self.names, unit_rows(self.vectors), strict=True)
        ):
            seen = known.setdefault(name, _Rows(len(vector)))
            if float(np.max(seen.rows @ vector, initial=-1.0)) < SAME_PICTURE:
                kept.append(place)
                seen.add(vector)
        return NewFaces(
            [self.names[place] for place in kept],
            self.vectors[kept],
            [self.sources[place] for place in kept],
            self.strangers,
        )


def alike_in_two(record: GalleryRecord, added: Sequence[NewFaces]) -> list[tuple[str, str]]:
    """Return pairs of people who would have one picture: who comes, and who has it already.

    Such as somebody whose folder was renamed. Of very many faces nothing is compared.
    """
    new = [(faces.names, unit_rows(faces.vectors)) for faces in added if len(faces.names)]
    names = [name for group, _ in new for name in group]
    owners = [*(record.names[person] for person in record.owner), *names]
    if not names or len(names) * len(owners) > MOST_COMPARED:
        return []
    vectors = np.concatenate([unit_rows(record.vectors), *(rows for _, rows in new)])
    first = len(owners) - len(names)
    found: dict[tuple[str, str], None] = {}
    for start in range(0, len(names), 512):
        cosines = vectors[first + start : first + start + 512] @ vectors.T
        for row, column in np.argwhere(cosines >= SAME_PICTURE):
            comes, there = names[start + row], owners[column]
            if comes != there and column < first + start + row:
                found[comes, there] = None
    return list(found)


def sources_with_other_pictures(record: GalleryRecord, new: NewFaces) -> list[str]:
    """Return the sources of new faces from which their person has another picture already."""
    known = {(record.names[p], s) for p, s in zip(record.owner, record.sources, strict=True)}
    return [s for n, s in zip(new.names, new.sources, strict=True) if s and (n, s) in known]


class _Rows:
    """Vectors of one length, one behind the other, of which more come."""

    def __init__(self, dim: int) -> None:
        self._all, self._count = np.empty((4, dim), np.float32), 0

    @property
    def rows(self) -> NDArray[np.float32]:
        """Those that are there, (n, dim)."""
        return self._all[: self._count]

    def add(self, vector: NDArray[np.float32]) -> None:
        """Add one."""
        if self._count == len(self._all):
            self._all = np.concatenate([self._all, np.empty_like(self._all)])
        self._all[self._count] = vector
        self._count += 1


@dataclasses.dataclass(frozen=True, eq=False)
class GalleryChange:
    """A change of a gallery: who goes, which faces come, and the facts afterwards."""

    removed: Sequence[str] = ()
    added: Sequence[NewFaces] = ()
    facts: dict[str, Any] | None = None


class GalleryStore(Protocol):
    """What keeps a gallery: a file, a server, or memory."""

    def load(self) -> GalleryRecord:
        """Return all of it, as it was at one moment."""
        ...

    def update(self, change: Callable[[GalleryRecord], GalleryChange]) -> GalleryRecord:
        """Change it, all or nothing; `change` gets the contents, which nobody else changes then.

        Threads take turns by the gallery's lock, processes by the store's.
        """
        ...


class MemoryStore:
    """A gallery in memory alone."""

    def __init__(self, record: GalleryRecord) -> None:
        self._record = record

    def load(self) -> GalleryRecord:
        """Return it."""
        return self._record

    def update(self, change: Callable[[GalleryRecord], GalleryChange]) -> GalleryRecord:
        """Change it."""
        self._record = changed(self._record, change(self._record))
        return self._record


def changed(record: GalleryRecord, change: GalleryChange) -> GalleryRecord:
    """Return what a gallery holds after a change."""
    gone = set(change.removed)
    stays = np.array(
        [name not in gone for name in record.names],
        bool,
    )
    place = np.cumsum(stays) - 1
    faces = np.flatnonzero(stays[record.owner])
    names = [name for name, kept in zip(record.names, stays, strict=True) if kept]
    strangers = list(record.is_stranger[stays])
    vectors, owner = [record.vectors[faces]], list(place[record.owner[faces]])
    sources = [record.sources[face] for face in faces]
    known = {(name, bool(s)): i for i, (name, s) in enumerate(zip(names, strangers, strict=True))}
    for more in change.added:
        for name in more.names:
            key = (name, more.strangers)
            if key not in known:
                known[key] = len(names)
                names.append(name)
                strangers.append(more.strangers)
            owner.append(known[key])
        vectors.append(more.vectors)
        sources += more.sources
    return GalleryRecord(
        facts=record.facts if change.facts is None else change.facts,
        names=tuple(names),
        is_stranger=np.array(strangers, bool),
        vectors=np.concatenate(vectors).astype(np.float32, copy=False),
        owner=np.array(owner, np.int64),
        sources=tuple(sources),
    )
