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

from tf_sphereface.alignment.listing import find_images, people_in
from tf_sphereface.alignment.passed_over import PassedOver
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
        passed_over: what the listing has left out.
    """

    root: Path
    paths: Sequence[Path]
    labels: NDArray[np.int32]
    names: list[str]
    checked: bool = False
    image_size: tuple[int, int] | None = None
    passed_over: PassedOver = dataclasses.field(default_factory=PassedOver)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.names)


class SkipReport:
    """Files that were left out, and why.

    Attributes:
        reasons: path -> one line, of the files that could not be decoded.
        passed_over: files that the listing took for no images of a person.

    Example:

    >>> report = SkipReport()
    >>> report.add(Path("a/b.jpg"), "truncated")
    >>> print(report.summary())
    1 file was skipped:
      a/b.jpg: truncated
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}
        self.passed_over = PassedOver()

    def __bool__(self) -> bool:
        return bool(self.reasons or self.passed_over.summary())

    @property
    def count(self) -> int:
        """Number of files that could not be decoded."""
        return len(self.reasons)

    def add(self, path: Path, reason: str) -> None:
        """Note that `path` was left out."""
        self.reasons[path] = reason

    def summary(self, limit: int = 20) -> str:
        """Return the count and the files, at most `limit` of them, one a line; then other sorts."""
        if not self:
            return "no file was skipped"
        texts = []
        if self.reasons:
            count = f"{self.count:,} file{'s were' if self.count > 1 else ' was'} skipped:"
            lines = [f"{path}: {reason}" for path, reason in self.reasons.items()]
            texts = [f"{count}\n  " + and_more(lines, limit, separator="\n  ")]
        return "\n".join([*texts, *filter(None, [self.passed_over.summary()])])


def scan_folder(root: str | os.PathLike[str], *, exclude: Iterable[str] = ()) -> FolderIndex:
    """List a folder `root/IDENTITY/image` without opening an image.

    What is an image is told as for `alignment.find_images`. Images in `root` itself and in folders
    below a person's are passed over, and counted in the index's `passed_over`, as are those that
    nothing here reads; folders without images are no people. Labels depend on the sorted folder
    names alone. The list takes the bytes of a file's name and twelve more for each image, so
    millions are no trouble.

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
    passed_over = PassedOver()
    for folder, entries in identities_in(root, exclude, passed_over=passed_over):
        images = [os.fsencode(entry.name) for entry in entries]
        files += b"".join(images)
        lengths.append(np.fromiter(map(len, images), np.uint32, len(images)))
        names.append(folder)
        counts.append(len(images))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.uint64)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    paths = PathList(root, names, labels, files, ends)
    return FolderIndex(root, paths, labels, names, passed_over=passed_over)


def scan_unlabelled(root: str | os.PathLike[str]) -> FolderIndex:
    """List all images of a folder, at any depth, as of one person; none is opened.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder of images. Received: {root}")
    passed_over = PassedOver()
    images = [os.fsencode(name) for name in find_images(root, passed_over=passed_over)]
    if not images:
        raise ValueError(f"{root} must hold images. Received: a folder without one")
    lengths = np.fromiter(map(len, images), np.uint32, len(images))
    labels, names = np.zeros(len(images), np.int32), ["."]
    ends = np.cumsum(lengths, dtype=np.uint64)
    paths = PathList(root, names, labels, b"".join(images), ends)
    return FolderIndex(root, paths, labels, names, passed_over=passed_over)


def note_passed_over(index: FolderIndex, strict: bool, report: SkipReport | None) -> None:
    """Note in `report` what the listing left out; without one, images among it are a warning.

    With `strict` they are a ValueError.
    """
    if report is not None:
        report.passed_over = index.passed_over
    if report is None or strict:
        index.passed_over.settle(index.root, strict)


def select(paths: Sequence[Path], good: NDArray[np.bool_]) -> Sequence[Path]:
    """Return the paths where `good`, bool (n,), is set."""
    if isinstance(paths, PathList):
        return paths.select(good)
    return list(itertools.compress(paths, good))


def identities_in(
    root: Path, exclude: Iterable[str] = (), *, passed_over: PassedOver
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder in `root` that is neither hidden nor excluded, by name, with its images.

    Folders without images are passed over; if all are, it is an error.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder of identity folders. Received: {root}")
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    unknown = sorted(name for name in excluded if not (root / name).is_dir())
    if unknown:
        raise ValueError(
            f"exclude must name identity folders of {root}. Received: {', '.join(unknown[:20])}"
        )
    yield from people_in(root, passed_over, excluded)


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
