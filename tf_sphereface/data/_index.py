"""A folder of identity folders, listed; and what was found unreadable in it."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data._listing import PathList, list_folder


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
        count = self.count
        lines = [f"{count:,} file{'s were' if count > 1 else ' was'} skipped:"]
        lines += [f"  {path}: {reason}" for path, reason in list(self.reasons.items())[:limit]]
        if count > limit:
            lines.append(f"  and {count - limit:,} more")
        return "\n".join(lines)


def scan_folder(root: str | os.PathLike[str], *, exclude: Iterable[str] = ()) -> FolderIndex:
    """List a folder `root/IDENTITY/image` without opening an image.

    Hidden names, other suffixes than .jpg, .jpeg, .png and .bmp, files in `root` itself, and
    folders without images are passed over. Labels depend on the sorted folder names alone. The list
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
    paths, labels, names = list_folder(root, exclude)
    return FolderIndex(root, paths, labels, names)


def keep(index: FolderIndex, good: NDArray[np.bool_], image_size: tuple[int, int]) -> FolderIndex:
    """Leave out the files that are not `good`, and mark the rest as checked.

    Labels and names stay as they were, so that a class keeps its number whatever is damaged; an
    identity whose every file is bad stays as a class without images.

    Raises:
        ValueError: no file is left.
    """
    if not good.any():
        raise ValueError(f"none of the {len(index):,} files in {index.root} can be decoded")
    paths: Sequence[Path]
    if isinstance(index.paths, PathList):
        paths = index.paths.select(good)
    else:
        paths = [path for path, fine in zip(index.paths, good, strict=True) if fine]
    return dataclasses.replace(
        index, paths=paths, labels=index.labels[good], checked=True, image_size=image_size
    )


def images_per_identity(index: FolderIndex) -> collections.Counter[str]:
    """Count the images of each identity, for tables."""
    return collections.Counter(index.names[label] for label in index.labels)
