"""A folder of identity folders, listed; and what was found unreadable in it."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import IMAGE_SUFFIXES, images_in
from tf_sphereface.utils.messages import and_more


@dataclasses.dataclass(frozen=True, eq=False)
class FolderIndex:
    """The images of a folder of identity folders.

    Attributes:
        root: the folder.
        paths: image files, sorted by identity, then by name; `scan_folder` keeps the names as
            bytes, and makes a path when it is asked for.
        labels: int32 (n,), index into `names`.
        names: the identities' folder names, sorted.
        checked: whether every file is known to decode, at `image_size`.
        image_size: (height, width) that the files were checked for; None before.
    """

    root: Path
    paths: Sequence[Path]
    labels: NDArray[np.int32]
    names: list[str]
    checked: bool = False
    image_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.names)


class SkipReport:
    """Files that were left out, and why.

    Attributes:
        reasons: path -> one line.

    Example:

    >>> report = SkipReport()
    >>> report.add(Path("a/b.jpg"), "truncated")
    >>> print(report.summary())
    1 file was skipped:
      a/b.jpg: truncated
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    @property
    def count(self) -> int:
        """Number of files left out."""
        return len(self.reasons)

    def add(self, path: Path, reason: str) -> None:
        """Note that `path` was left out."""
        self.reasons[path] = reason

    def summary(self, limit: int = 20) -> str:
        """Return the count and the files, at most `limit` of them, one a line."""
        if not self.reasons:
            return "no file was skipped"
        count = f"{self.count:,} file{'s were' if self.count > 1 else ' was'} skipped:"
        lines = [f"{path}: {reason}" for path, reason in self.reasons.items()]
        return f"{count}\n  " + and_more(lines, limit, separator="\n  ")


def scan_folder(root: str | os.PathLike[str], *, exclude: Iterable[str] = ()) -> FolderIndex:
    """List a folder `root/IDENTITY/image` without opening an image.

    Hidden names, other suffixes than those of `read_image`, files in `root` itself, and folders
    without images are passed over. Labels depend on the sorted folder names alone. The list
    takes the bytes of a file's name and twelve more for each image, so millions are no trouble.

    Args:
        root: the folder.
        exclude: identity names to leave out, such as those that are in a test set too.

    Returns:
        The index.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image, or `exclude` names an identity that is not there.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> index = scan_folder(synthetic.write_folder(tempfile.mkdtemp(), 3, 2))
    >>> len(index), index.names
    (6, ['Person_000000', 'Person_000001', 'Person_000002'])
    """
    root = Path(root)
    files = bytearray()
    lengths: list[NDArray[np.uint32]] = []
    names: list[str] = []
    counts: list[int] = []
    for folder, entries in identities_in(root, exclude):
        images = [os.fsencode(entry.name) for entry in entries]
        files += b"".join(images)
        lengths.append(np.fromiter(map(len, images), np.uint32, len(images)))
        names.append(folder)
        counts.append(len(images))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.uint64)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return FolderIndex(root, PathList(root, names, labels, files, ends), labels, names)


def select(paths: Sequence[Path], good: NDArray[np.bool_]) -> Sequence[Path]:
    """Return the paths where `good`, bool (n,), is set."""
    if isinstance(paths, PathList):
        return paths.select(good)
    return list(itertools.compress(paths, good))


def identities_in(
    root: Path, exclude: Iterable[str] = ()
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder in `root` that is neither hidden nor excluded, by name, with its images.

    Folders without images are passed over; if all are, it is an error.
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
    folders = [folder for folder in folders if folder not in excluded]
    count = 0
    for folder in folders:
        images = images_in(root / folder)
        count += len(images)
        if images:
            yield folder, images
    if not count:
        raise ValueError(
            "root must hold one folder per identity, with images "
            f"({', '.join(IMAGE_SUFFIXES)}) in it. "
            f"Received: {root}, with {len(folders)} folders and no such image"
        )


class PathList(Sequence[Path]):
    """Paths `root/names[label]/file`, kept as one run of bytes: the file's name and 8 bytes each.

    Ten million `Path` objects take several gigabytes. A path is made when it is asked for. `ends`,
    uint64 (n,), says where each name ends in `files`, and `rows` which of them belong to this list.
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def select(self, good: NDArray[np.bool_]) -> PathList:
        """Return the paths where `good`, bool (n,), is set; the names are shared, not copied."""
        rows = np.flatnonzero(good) if self._rows is None else self._rows[good]
        return PathList(self._root, self._names, self._labels, self._files, self._ends, rows)
