"""Lists of people and pictures that training leaves out, because a test set has them too."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import numpy as np

from tf_sphereface.data.folder_index import FolderIndex, select
from tf_sphereface.data.pack.reading import Pack
from tf_sphereface.data.recordio.reading import RecordFile
from tf_sphereface.utils.files import atomic_path, text_encoding
from tf_sphereface.utils.messages import and_more


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """What to leave out.

    Attributes:
        identities: folder names.
        images: paths inside the data folder, `IDENTITY/FILE`; of a RecordIO file
            `LABEL/RECORD`, as `RecordFile.image_names` has them.
    """

    identities: frozenset[str]
    images: frozenset[str]

    def __str__(self) -> str:
        people, pictures = len(self.identities), len(self.images)
        return f"{people:,} identities and {pictures:,} images"

    def to_dict(self) -> dict[str, Any]:
        """Return counts and a hash of the content: equal for lists that leave out the same."""
        lines = [*sorted(f"{name}\n" for name in self.identities)]
        lines += sorted(f"{name}\n" for name in self.images)
        return {
            "identities": len(self.identities),
            "images": len(self.images),
            "sha256": hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest(),
        }


def read_exclusions(path: str | os.PathLike[str]) -> Exclusions:
    """Read a list of identities and images, one per line.

    A line with a slash inside is an image, `IDENTITY/FILE`, another one an identity, `IDENTITY` or
    `IDENTITY/`. What follows a tab is a comment, as is a line that begins with `#`: for a name that
    does, write `./#name`.

    Raises:
        ValueError: the file is empty (comments alone are a list of nothing, as an audit that
            found nothing writes it), no text, or names a path outside the data folder.
        OSError: the file cannot be read.

    Example:

    >>> with open("exclude.txt", "w") as lines:
    ...     print("0166921", "1056413/004.jpg", sep=os.linesep, file=lines)
    >>> print(read_exclusions("exclude.txt"))
    1 identities and 1 images
    """
    identities: set[str] = set()
    images: set[str] = set()
    text = Path(path).read_bytes().decode(text_encoding(path), "surrogateescape")  # any names
    if "\0" in text:
        raise ValueError(f"{path}: a list of exclusions must be text, in UTF-8 or marked UTF-16")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            continue
        name, tab, _ = line.partition("\t")  # before a tab, blanks are a part of the name
        name = (name if tab else name.rstrip()).removeprefix("./")
        if not name.strip():
            continue
        parts = name.rstrip("/").split("/")
        if len(parts) > 2 or any(part in ("", ".", "..") for part in parts):
            raise ValueError(
                f"{path}, line {number}: expected IDENTITY or IDENTITY/FILE. Received: {name!r}"
            )
        (images if len(parts) == 2 else identities).add("/".join(parts))
    if not identities and not images and not re.search("^#", text, re.MULTILINE):
        raise ValueError(f"{path}: it names no identity and no image")
    return Exclusions(frozenset(identities), frozenset(images))


def write_exclusions(
    path: str | os.PathLike[str], entries: Iterable[tuple[str, str]], header: str
) -> None:
    """Write a list that `read_exclusions` reads.

    Entries are (identity or identity/file, reason); the header says what the list is.

    Example:

    >>> write_exclusions("left_out.txt", [("Ann_Lee/1.jpg", "blurred")], "Faces to leave out")
    >>> read_exclusions("left_out.txt").images
    frozenset({'Ann_Lee/1.jpg'})
    """
    lines = [f"# {line}" for line in header.splitlines()]
    lines += [f"{'./' * name.startswith('#')}{name}\t{reason}" for name, reason in entries]
    with atomic_path(path) as temporary:
        text = "\n".join(lines) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


@overload
def leave_out(source: FolderIndex, exclusions: Exclusions) -> FolderIndex: ...


@overload
def leave_out(source: Pack, exclusions: Exclusions) -> Pack: ...


@overload
def leave_out(source: RecordFile, exclusions: Exclusions) -> RecordFile: ...


def leave_out(
    source: FolderIndex | Pack | RecordFile, exclusions: Exclusions
) -> FolderIndex | Pack | RecordFile:
    """Return a folder's index, a pack or a RecordIO file without the excluded people and pictures.

    Labels are numbered again: a person who is excluded, or all of whose pictures are, is no class.

    Raises:
        ValueError: the list names what is not there (a misspelt exclusion would leave the overlap
            in), or nothing is left.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import scan_folder, synthetic
    >>> index = scan_folder(synthetic.write_folder(tempfile.mkdtemp(), 3, 2))
    >>> fewer = leave_out(index, Exclusions(frozenset({"Person_000001"}), frozenset()))
    >>> len(fewer), fewer.names
    (4, ['Person_000000', 'Person_000002'])
    """
    names = image_names(source)
    labels = source.labels
    gone = np.array([name in exclusions.identities for name in source.names], bool)
    out = gone[labels] | np.array([name in exclusions.images for name in names], bool)
    unknown = sorted(exclusions.identities.difference(source.names))
    unknown += sorted(exclusions.images.difference(names))
    if unknown:
        raise ValueError(
            f"the exclusions must be in {source.root}. Received: {and_more(unknown, 20)}"
        )
    if out.all():
        raise ValueError(f"the exclusions leave nothing of {source.root}")
    if isinstance(source, RecordFile):
        return source.without(out)
    kept = np.unique(labels[~out])
    people = [source.names[label] for label in kept]
    if not isinstance(source, FolderIndex):
        rows = np.arange(len(source.table)) if source.rows is None else source.rows
        return dataclasses.replace(
            source, names=people, ends=source.ends[kept], rows=rows[~out].astype(np.uint32)
        )
    new = np.searchsorted(kept, labels[~out]).astype(np.int32)
    return dataclasses.replace(source, paths=select(source.paths, ~out), labels=new, names=people)


def image_names(source: FolderIndex | Pack | RecordFile) -> list[str]:
    """Return `IDENTITY/FILE` of every image, in the order of the source."""
    if isinstance(source, RecordFile):
        return source.image_names()
    if isinstance(source, Pack):
        files = list(source.files())
        return files if source.rows is None else [files[row] for row in source.rows]
    return [f"{path.parent.name}/{path.name}" for path in source.paths]
