"""A packed folder: TFRecord shards, and an index that finds any image in them by its position.

    manifest.json                      what is here: counts, checksums, the format's version
    classes.tsv                        a line an identity, in the order of labels: images, name
    files.txt                          a line an image: its path inside the folder that was packed
    index.npy                          an `INDEX` row an image, in the order of files.txt
    faces-00000-of-00016.tfrecord ...  `tf.train.Example` with image, label, name, file

Images are numbered as the sorted folder lists them, whatever the order in the shards: a packed
folder gives the batches that the folder itself would.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "tf_sphereface-pack", 1
MANIFEST, CLASSES, FILES, INDEX_FILE = "manifest.json", "classes.tsv", "files.txt", "index.npy"
PARTIAL = "partial"  # the folder of what is needed only while packing

# 14 bytes an image. The offset is that of the encoded image inside the record, the checksum its
# zlib.crc32: TFRecord's own covers the record's frame too, and needs the whole record.
INDEX = np.dtype([("shard", "<u2"), ("offset", "<u4"), ("length", "<u4"), ("crc", "<u4")])

_KEYS = ("images", "classes", "image_size", "plan", "skipped", "files", "shards")
_OPEN_SHARDS = 256  # files kept open, well below the usual limit of 1,024


def shard_name(shard: int, shards: int) -> str:
    """Return the file name of a shard."""
    return f"faces-{shard:05d}-of-{shards:05d}.tfrecord"


def is_pack(path: Any) -> bool:
    """Tell whether a path is a packed folder, finished or not, rather than a folder of faces.

    Example:

    >>> is_pack("no/such/folder")
    False
    """
    if not isinstance(path, (str, os.PathLike)):
        return False
    manifest = Path(path, MANIFEST)
    if not manifest.is_file():
        return Path(path, PARTIAL, "plan.json").is_file()
    with manifest.open("rb") as handle:  # some other program's, unless it begins with our name
        return FORMAT.encode() in handle.read(200)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a packed folder.

    Raises:
        FileNotFoundError: there is none; packing was not finished, or it is no packed folder.
        ValueError: it is damaged, of another kind, or of another version of the format.
    """
    root = Path(path)
    file = root / MANIFEST
    if not file.is_file():
        if (root / PARTIAL).is_dir():
            raise FileNotFoundError(
                f"{root} is not packed to the end: run the same tf_sphereface-data pack again"
            )
        raise FileNotFoundError(f"path must be a packed folder, with {MANIFEST}. Received: {root}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a packed folder")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{file}: format version {VERSION} is expected. Received: {manifest.get('version')!r}. "
            "Pack the folder again with this version of tf_sphereface"
        )
    lacking = [key for key in _KEYS if key not in manifest]
    if lacking:
        raise ValueError(f"{file} is damaged: {', '.join(lacking)} missing")
    return manifest


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    """A packed folder, open for reading; made by `open_pack`.

    Attributes:
        root: the folder.
        manifest: what manifest.json says.
        names: the identities' names, in the order of labels.
        ends: int64 (classes,), where the images of each identity end among all in the pack.
        table: `INDEX` (n,), where each image lies; mapped, not read.
        rows: uint32, the images that are left after damaged ones were left out; None: all.
    """

    root: Path
    manifest: dict[str, Any]
    names: list[str]
    ends: NDArray[np.int64]
    table: NDArray[np.void]
    rows: NDArray[np.uint32] | None = None
    _open: collections.OrderedDict[int, _File] = dataclasses.field(
        default_factory=collections.OrderedDict, repr=False
    )
    _lock: Any = dataclasses.field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.table if self.rows is None else self.rows)

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.names)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of every image; None where they differ."""
        size = self.manifest["image_size"]
        return None if size is None else (int(size[0]), int(size[1]))

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 (n,), the identity of each image, index into `names`."""
        counts = np.diff(self.label_ends(), prepend=0)
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def label_ends(self) -> NDArray[np.int64]:
        """Return int64 (classes,), where the images of each identity end among those left."""
        if self.rows is None:
            return self.ends
        return np.searchsorted(self.rows, self.ends).astype(np.int64)

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.root / self.manifest["shards"][shard]["file"]

    def files(self) -> Iterator[str]:
        """Go through the images' paths inside the folder that was packed, also those left out."""
        with (self.root / FILES).open("rb") as lines:
            for line in lines:
                yield os.fsdecode(line.rstrip(b"\n"))

    def describe(self, rows: Sequence[int] | NDArray[np.integer]) -> list[tuple[str, str]]:
        """Return each image's path and the place of its record, for messages; `rows` ascend."""
        rows = [int(row) for row in rows]
        wanted = set(rows)
        files = dict(pair for pair in enumerate(self.files()) if pair[0] in wanted)
        places: dict[int, str] = {}
        for shard in np.unique(self.table["shard"][rows]).tolist():
            inside = self.records(shard)
            name = self.shard_path(shard).name
            for number in np.flatnonzero(np.isin(inside, rows)).tolist():
                places[int(inside[number])] = f"record {number} of {name}"
        return [(files.get(row, f"image {row}"), places[row]) for row in rows]

    def records(self, shard: int) -> NDArray[np.int64]:
        """Return the rows of a shard's images in the order of its records."""
        rows = np.flatnonzero(self.table["shard"] == shard)
        return rows[np.argsort(self.table["offset"][rows])]

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.object_]:
        """Read encoded images.

        Args:
            positions: integers (batch,), each below `len(self)`.

        Returns:
            Objects (batch,), each the bytes of a JPEG, PNG or BMP.

        Raises:
            ValueError: a record is damaged; the message names shard, record and file.
            OSError: a shard cannot be read.
        """
        rows = positions if self.rows is None else self.rows[positions]
        images = np.empty(len(rows), object)
        entries = self.table[rows].tolist()
        files = {shard: self._file(shard) for shard, *_ in entries}
        for shard, offset, length, _ in entries:
            files[shard].announce(offset, length)
        for place, (shard, offset, length, crc) in enumerate(entries):
            contents = files[shard].read(offset, length)
            if len(contents) != length or zlib.crc32(contents) != crc:
                ((file, record),) = self.describe([int(rows[place])])
                raise ValueError(
                    f"{self.root}: {record} ({file}) is damaged: {why_damaged(contents, length)}. "
                    "See tf_sphereface-data check; errors='skip' leaves damaged records out"
                )
            images[place] = contents
        return images

    def _file(self, shard: int) -> _File:
        """Return a shard, open; the least used ones are closed when there are many."""
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = _File(self.shard_path(shard))
                if len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)  # closed when its last reader lets go
            else:
                self._open.move_to_end(shard)
            return file


class _File:
    """A file that is read at given places, by any number of threads, and closed when forgotten."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def announce(self, offset: int, length: int) -> None:
        """Let the system fetch this part while others are asked for."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def read(self, offset: int, length: int) -> bytes:
        """Return that part of the file, less what lies beyond its end."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, length, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, length)


def why_damaged(contents: bytes, length: int) -> str:
    """Say what is wrong with an image of which `contents` was read."""
    return "the shard ends before it" if len(contents) != length else "its checksum differs"
