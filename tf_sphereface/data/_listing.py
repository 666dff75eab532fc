"""List identity folders one at a time, and keep what was found in a few bytes a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def identity_folders(root: Path, exclude: Iterable[str] = ()) -> list[str]:
    """Return the sorted names of the folders in `root` that are neither hidden nor excluded.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `exclude` names a folder that is not there.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder of identity folders. Received: {root}")
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    with os.scandir(root) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    unknown = sorted(excluded.difference(folders))
    if unknown:
        raise ValueError(
            f"exclude must name identity folders of {root}. Received: {', '.join(unknown[:20])}"
        )
    return [folder for folder in folders if folder not in excluded]


def images_in(folder: str | os.PathLike[str]) -> list[tuple[str, os.DirEntry[str]]]:
    """Return the sorted (name, entry) of the images in one folder."""
    with os.scandir(folder) as entries:
        return sorted(
            (
                (entry.name, entry)
                for entry in entries
                if entry.name[0] != "."
                and entry.name.lower().endswith(SUFFIXES)
                and entry.is_file()
            ),
            key=lambda pair: pair[0],
        )


def no_images(root: Path, folders: int) -> ValueError:
    """Return the error for a folder without images."""
    return ValueError(
        f"root must hold one folder an identity, with images ({', '.join(SUFFIXES)}) in it. "
        f"Received: {root}, with {folders} folders and no such image"
    )


class PathList(Sequence[Path]):
    """Paths `root/names[label]/file`, kept as one run of bytes: the file's name and 8 bytes each.

    Ten million `Path` objects take several gigabytes. A path is made when it is asked for.

    Args:
        root: the folder.
        names: the identities' folder names.
        labels: int32 (n,), index into `names` for each file.
        files: the files' names, encoded and joined.
        ends: uint64 (n,), where each name ends in `files`.
        rows: which of them belong to this list, in order; all by default.
    """

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: NDArray[np.int32],
        files: bytes | bytearray,
        ends: NDArray[np.uint64],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._root, self._names, self._labels = root, names, labels
        self._files, self._ends, self._rows = files, ends, rows

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, place: int) -> Path: ...

    @overload
    def __getitem__(self, place: slice) -> list[Path]: ...

    def __getitem__(self, place: int | slice) -> Path | list[Path]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # negative and out of range, as a list has it
        row = place if self._rows is None else int(self._rows[place])
        begin = int(self._ends[row - 1]) if row else 0
        name = os.fsdecode(bytes(self._files[begin : int(self._ends[row])]))
        return self._root / self._names[self._labels[row]] / name

    def __iter__(self) -> Iterator[Path]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def select(self, good: NDArray[np.bool_]) -> PathList:
        """Return the paths where `good`, bool (n,), is set; the names are shared, not copied."""
        rows = np.flatnonzero(good) if self._rows is None else self._rows[good]
        return PathList(self._root, self._names, self._labels, self._files, self._ends, rows)


def list_folder(
    root: Path, exclude: Iterable[str] = ()
) -> tuple[PathList, NDArray[np.int32], list[str]]:
    """Return the paths, labels and identity names of a folder, holding one folder's list at a time.

    Raises:
        FileNotFoundError, ValueError: as `identity_folders`; or there is no image.
    """
    folders = identity_folders(root, exclude)
    files = bytearray()
    lengths: list[NDArray[np.uint32]] = []
    names: list[str] = []
    counts: list[int] = []
    for folder in folders:
        images = [os.fsencode(name) for name, _ in images_in(root / folder)]
        if images:
            files += b"".join(images)
            lengths.append(np.fromiter(map(len, images), np.uint32, len(images)))
            names.append(folder)
            counts.append(len(images))
    if not names:
        raise no_images(root, len(folders))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.uint64)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return PathList(root, names, labels, files, ends), labels, names
