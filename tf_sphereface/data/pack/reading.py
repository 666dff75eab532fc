"""Open a packed folder, and find what is damaged in it."""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.data.folder_index import SkipReport
from tf_sphereface.data.pack.format import CLASSES, FILES, INDEX, INDEX_FILE, read_manifest
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.files import RandomAccessFile, read_parts, sha256_file
from tf_sphereface.utils.messages import ProgressCallback

_BUFFER = 1 << 20


@dataclasses.dataclass(frozen=True)
class PackCheck:
    """What `check_pack` found.

    Attributes:
        images: images in the pack.
        files: file name -> what is wrong with it as a whole; empty when every checksum holds.
        records: image's path -> its record, and what is wrong with it.
    """

    images: int
    files: dict[str, str]
    records: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.files or self.records)


def open_pack(
    path: str | os.PathLike[str] | Pack,
    *,
    errors: Literal["raise", "skip"] = "raise",
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
) -> Pack:
    """Open a folder that `tf_sphereface-data pack` wrote.

    Args:
        path: the packed folder; one that is open already is returned as it is.
        errors: `"raise"`: a shard of another length is an error now, a damaged record when it is
            read. `"skip"`: every shard is read once now, and damaged records are left out, so that
            the number of images is exact; one that breaks later stops the run with its name.
        report: where records that are left out are noted.
        progress: called with (done, total) images while shards are read.

    Returns:
        The pack. What it takes in memory does not grow with the number of images.

    Raises:
        FileNotFoundError: there is no such pack, or it is not complete.
        ValueError: it is of another version, damaged with `"raise"`, or nothing is left of it.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, packed = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = data.synthetic.write_folder(faces, 3, 2)
    >>> _ = data.pack_folder(faces, packed, shards=2)
    >>> pack = open_pack(packed)
    >>> len(pack), pack.num_classes, pack.image_size
    (6, 3, (112, 96))
    """
    check_choice("errors", errors, ("raise", "skip"))
    if isinstance(path, Pack):
        return path
    pack = _open(Path(path))
    if errors == "raise":
        for shard, facts in enumerate(pack.manifest["shards"]):
            _check_length(pack, shard, facts)
        return pack
    damaged = _damaged_rows(pack, progress)
    if not damaged:
        return pack
    if report is not None:
        for name, reason in _named(pack, damaged).items():
            report.add(Path(name), reason)
    if len(damaged) == len(pack):
        raise ValueError(f"none of the {len(pack):,} records in {pack.root} can be read")
    good = np.delete(np.arange(len(pack), dtype=np.uint32), list(damaged))
    return dataclasses.replace(pack, rows=good)


def check_pack(
    path: str | os.PathLike[str], *, progress: ProgressCallback | None = None
) -> PackCheck:
    """Check every file and every record of a packed folder against its checksums.

    `progress` is called with (done, total) images. Without manifest and index nothing can be
    checked: the errors are those of `open_pack`.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, packed = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = data.synthetic.write_folder(faces, 3, 2)
    >>> _ = data.pack_folder(faces, packed)
    >>> check_pack(packed).ok
    True
    """
    pack = _open(Path(path))
    files: dict[str, str] = {}
    for name, facts in pack.manifest["files"].items():
        if sha256_file(pack.root / name) != facts["sha256"]:
            files[name] = "its checksum differs"
    damaged = _damaged_rows(pack, progress)
    for facts in pack.manifest["shards"]:
        file = pack.root / facts["file"]
        if not file.is_file():
            files[file.name] = "missing"
        elif sha256_file(file) != facts["sha256"]:
            files[file.name] = _how_far(file, facts)
    return PackCheck(len(pack), files, _named(pack, damaged))


def _open(root: Path) -> Pack:
    """Open a packed folder; the shards are not looked at."""
    manifest = read_manifest(root)
    for name in (CLASSES, FILES, INDEX_FILE):
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root} is damaged: {name} is missing")
    counts, names = [], []
    try:
        for line in (root / CLASSES).read_bytes().split(b"\n")[:-1]:
            count, _, person = line.partition(b"\t")
            counts.append(int(count))
            names.append(os.fsdecode(person))
        table = np.load(root / INDEX_FILE, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{root} is damaged: {error}") from None
    if table.dtype != INDEX or table.shape != (manifest["images"],) or sum(counts) != len(table):
        raise ValueError(
            f"{root} is damaged: {INDEX_FILE}, {CLASSES} and the manifest's {manifest['images']:,} "
            "images do not belong together"
        )
    return Pack(root, manifest, names, np.cumsum(counts, dtype=np.int64), table)


def _check_length(pack: Pack, shard: int, facts: dict[str, Any]) -> None:
    """Raise `ValueError` when a shard is shorter or longer than it was written."""
    path = pack.shard_path(shard)
    size = path.stat().st_size if path.is_file() else -1
    if size == facts["bytes"]:
        return
    what = f"has {size:,} bytes instead of {facts['bytes']:,}" if size >= 0 else "is missing"
    rows = pack.records(shard)
    lost = rows[pack.table["offset"][rows].astype(np.int64) + pack.table["length"][rows] > size]
    first = ", first {1} ({0})".format(*pack.describe([int(lost[0])])[0]) if len(lost) else ""
    raise ValueError(
        f"{path} {what}: {len(lost):,} records are lost{first}. See tf_sphereface-data check; "
        "errors='skip' (in a command: without --strict) leaves damaged records out"
    )


def _damaged_rows(pack: Pack, progress: ProgressCallback | None) -> dict[int, str]:
    """Read every image once, each shard from front to back; return row -> why it is damaged."""
    bad: dict[int, str] = {}
    done = 0
    for shard in range(len(pack.manifest["shards"])):
        rows, path = pack.records(shard), pack.shard_path(shard)
        if not path.is_file():
            bad.update(dict.fromkeys(rows.tolist(), "the shard is missing"))
        else:
            with path.open("rb", buffering=_BUFFER) as handle:
                entries = pack.table[rows].tolist()
                for row, (_, offset, length, crc) in zip(rows.tolist(), entries, strict=True):
                    handle.seek(offset)
                    contents = handle.read(length)
                    if len(contents) != length or zlib.crc32(contents) != crc:
                        bad[row] = why_damaged(contents, length)
        done += len(rows)
        if progress is not None:
            progress(done, len(pack.table))
    return dict(sorted(bad.items()))


def _named(pack: Pack, damaged: dict[int, str]) -> dict[str, str]:
    """Return image's path -> its record, and what is wrong with it."""
    rows = list(damaged)
    places = zip(pack.describe(rows), rows, strict=True) if rows else ()
    return {file: f"{record}: {damaged[row]}" for (file, record), row in places}


def _how_far(path: Path, facts: dict[str, Any]) -> str:
    """Say how far TensorFlow itself can read a shard whose checksum differs."""
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(os.fsencode(path)):
            count += 1
    except tf.errors.DataLossError:
        return f"its checksum differs; TFRecord cannot be read past record {count}"
    if count != facts["records"]:
        return f"its checksum differs; it ends after {count} of {facts['records']} records"
    return "its checksum differs"


_OPEN_SHARDS = 256  # files kept open, well below the usual limit of 1,024


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    r"""A packed folder, open for reading; made by `open_pack`.

    Attributes:
        root: the folder.
        manifest: what manifest.json says.
        names: the identities' names, in the order of labels.
        ends: int64 (classes,), where the images of each identity end among all in the pack.
        table: `INDEX` (n,), where each image lies; mapped, not read.
        rows: uint32, the images that are left after damaged ones were left out; None: all.

    Example:

    >>> from tf_sphereface import data
    >>> _ = data.pack_folder(data.synthetic.write_folder("faces", 2, 2), "packed")
    >>> pack = open_pack("packed")
    >>> pack.names, pack.labels.tolist(), pack.read(np.array([0]))[0][:2]  # a JPEG file
    (['Person_000000', 'Person_000001'], [0, 0, 1, 1], b'\xff\xd8')
    """

    root: Path
    manifest: dict[str, Any]
    names: list[str]
    ends: NDArray[np.int64]
    table: NDArray[np.void]
    rows: NDArray[np.uint32] | None = None
    _open: Callable[[Path], RandomAccessFile] = dataclasses.field(
        default_factory=lambda: functools.lru_cache(_OPEN_SHARDS)(RandomAccessFile), repr=False
    )

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
        """Return encoded images, objects (batch,) of bytes, by their positions, integers (batch,).

        Raises:
            ValueError: a record is damaged; the message names shard, record and file.
            OSError: a shard cannot be read.
        """
        rows = positions if self.rows is None else self.rows[positions]
        images = np.empty(len(rows), object)
        entries = self.table[rows].tolist()
        shards = {shard for shard, *_ in entries}
        files = {shard: self._open(self.shard_path(shard)) for shard in shards}
        parts = [(files[shard], offset, length) for shard, offset, length, _ in entries]
        for place, contents in enumerate(read_parts(parts)):
            *_, length, crc = entries[place]
            if len(contents) != length or zlib.crc32(contents) != crc:
                ((file, record),) = self.describe([int(rows[place])])
                raise ValueError(
                    f"{self.root}: {record} ({file}) is damaged: {why_damaged(contents, length)}. "
                    "See tf_sphereface-data check; errors='skip' (in a command: without "
                    "--strict) leaves damaged records out"
                )
            images[place] = contents
        return images


def why_damaged(contents: bytes, length: int) -> str:
    """Say what is wrong with an image of which `contents` was read."""
    return "the shard ends before it" if len(contents) != length else "its checksum differs"
