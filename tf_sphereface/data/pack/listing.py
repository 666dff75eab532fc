"""List a folder into files, so that packing holds one identity's file names at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.data.folder_index import identities_in
from tf_sphereface.utils.files import atomic_path


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder of identity folders, listed on disk."""

    root: Path
    path: Path  # a text file with a line per image: its path inside `root`
    line_ends: NDArray[np.uint64]  # where each line ends in that file; mapped, not read
    names: list[str]
    ends: NDArray[np.int64]  # (classes,), where each identity's images end
    size: int  # bytes of all images together
    fingerprint: str  # SHA-256 of the paths and sizes

    def __len__(self) -> int:
        return len(self.line_ends)

    def files(self, positions: NDArray[np.integer]) -> Iterator[str]:
        """Return the paths of some images, in the order of `positions`."""
        with self.path.open("rb") as handle:
            for place in positions.tolist():
                begin = int(self.line_ends[place - 1]) if place else 0
                handle.seek(begin)
                yield os.fsdecode(handle.read(int(self.line_ends[place]) - begin - 1))

    def label(self, position: int) -> int:
        """Return the identity of an image, index into `names`."""
        return int(np.searchsorted(self.ends, position, side="right"))


def store_listing(
    root: Path,
    target: Path,
    blocks: Iterable[tuple[list[bytes], NDArray[np.unsignedinteger]]],
    names: list[str],
    counts: Sequence[int] | NDArray[np.integer],
) -> Listing:
    """Store names of images and their sizes in bytes, block by block, person after person.

    The names go into `target`, a line each, and where the lines end into `target` + ".ends".
    `names` of the people and `counts` of their images may be filled while `blocks` are made.
    """
    digest = hashlib.sha256()
    total = written = 0
    ends_path = target.with_name(target.name + ".ends")
    with (
        atomic_path(target) as lines_path,
        atomic_path(ends_path) as offsets_path,
        lines_path.open("wb") as lines,
        offsets_path.open("wb") as offsets,
    ):
        for files, sizes in blocks:
            text = b"".join(file + b"\n" for file in files)
            lengths = np.fromiter((len(file) + 1 for file in files), np.uint64, len(files))
            lines.write(text)
            offsets.write((written + np.cumsum(lengths, dtype="<u8")).astype("<u8").tobytes())
            digest.update(text + sizes.astype("<u8").tobytes())
            written += len(text)
            total += int(sizes.sum())
    return Listing(
        root,
        target,
        np.memmap(ends_path, "<u8", "r"),
        names,
        np.cumsum(counts, dtype=np.int64),
        total,
        digest.hexdigest(),
    )


def write_listing(root: Path, target: Path, passed_over: PassedOver) -> Listing:
    """List `root`, in sorted order, into `target` and `target` + ".ends"."""
    names: list[str] = []
    counts: list[int] = []

    def people() -> Iterator[tuple[list[bytes], NDArray[np.unsignedinteger]]]:
        for folder, images in identities_in(root, passed_over=passed_over):
            files = [os.fsencode(f"{folder}/{entry.name}") for entry in images]
            if any(b"\n" in file for file in files):
                raise ValueError(f"a file name in {root / folder} has a line break: rename it")
            names.append(folder)
            counts.append(len(files))
            yield files, np.array([entry.stat().st_size for entry in images], "<u8")

    return store_listing(root, target, people(), names, counts)
