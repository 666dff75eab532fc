"""Open a RecordIO file of faces, whole or in parts damaged, for access at random."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.decoding import fit, path_size
from tf_sphereface.data.folder_index import SkipReport
from tf_sphereface.data.options import Size
from tf_sphereface.data.recordio.decoding import decode_all
from tf_sphereface.data.recordio.framing import MAGIC, payload
from tf_sphereface.data.recordio.image_header import image_of
from tf_sphereface.data.recordio.index_file import compare_index, index_path
from tf_sphereface.data.recordio.scan import Damage, Scan, scan_file
from tf_sphereface.data.recordio.scan_cache import file_key, keep_scan, load_scan
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.files import RandomAccessFile, read_parts
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning, and_more

_ADVICE = (
    "See tf_sphereface-data check; errors='skip' (in a command: without --strict) leaves damaged "
    "records out"
)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordFile:
    """A RecordIO file, open for reading; made by `open_rec`. It takes 16 to 24 bytes per image.

    Attributes:
        path: the file.
        scan: what is known of its records.
        rows: uint32, the images that are left after damaged or excluded ones were left out, rows
            of `scan.images`; None: all.
        kept: int32, ascending, the people who are left after some were excluded, positions in
            `scan.people`; None: all.

    Example:

    >>> from tf_sphereface import data
    >>> _ = data.write_rec(data.synthetic.write_folder("people", 2, 2), "people_rec")
    >>> open_rec("people_rec").counts().tolist()
    [2, 2]
    """

    path: Path
    scan: Scan
    rows: NDArray[np.uint32] | None = None
    kept: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.scan.images if self.rows is None else self.rows)

    @property
    def root(self) -> Path:
        """The file, as a folder's index names its folder."""
        return self.path

    @functools.cached_property
    def names(self) -> list[str]:
        """The people's labels in the file, in the order of classes, with leading zeros."""
        people = self.scan.people if self.kept is None else self.scan.people[self.kept]
        width = len(str(self.scan.people[-1]))
        return [f"{label:0{width}d}" for label in people.tolist()]

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.scan.people if self.kept is None else self.kept)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 (n,), the identity of each image, index into `names`."""
        return self.labels_at(slice(None))

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change when the file does."""
        key = json.dumps(file_key(self.path)).encode()
        return hashlib.sha256(key).hexdigest()[:32]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of every image; None where they differ or are not known yet."""
        if self.scan.sizes is None or len(self.scan.sizes) != 1:
            return None
        height, width = next(iter(self.scan.sizes)).split("x")
        return int(height), int(width)

    def labels_at(self, positions: NDArray[np.integer] | slice) -> NDArray[np.int32]:
        """Return int32 (batch,), the identities of some images."""
        rows = positions if self.rows is None else self.rows[positions]
        labels: NDArray[np.int32] = self.scan.images["label"][rows]
        return labels if self.kept is None else np.searchsorted(self.kept, labels).astype(np.int32)

    def numbers(self, positions: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.int64]:
        """Return the records' numbers in the file of some images."""
        if isinstance(positions, slice):
            positions = np.arange(len(self))[positions]
        return self.scan.numbers(positions if self.rows is None else self.rows[positions])

    def image_names(self, positions: NDArray[np.integer] | slice = slice(None)) -> list[str]:
        """Return `IDENTITY/RECORD` of some images, such as `00017/00000123`."""
        numbers, labels = self.numbers(positions).tolist(), self.labels_at(positions).tolist()
        names = self.names
        return [f"{names[lab]}/{number:08d}" for lab, number in zip(labels, numbers, strict=True)]

    def spans(self, positions: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Return the bytes that some images take in the file, frames and labels included."""
        spans: NDArray[np.uint32] = self._entries(positions)["span"]
        return spans

    def describe(self, positions: NDArray[np.integer]) -> list[str]:
        """Return image, record and offset of some images, for messages."""
        offsets = self._entries(positions)["offset"].tolist()
        return [
            f"{name}, record {int(name.rpartition('/')[2])} at offset {offset}"
            for name, offset in zip(self.image_names(positions), offsets, strict=True)
        ]

    def read(self, positions: NDArray[np.integer]) -> NDArray[np.object_]:
        """Return encoded images, objects (batch,) of bytes, by their positions, integers (batch,).

        Raises:
            ValueError: the file has changed; the message names record and offset.
            OSError: the file cannot be read.
        """
        images = np.empty(len(positions), object)
        entries = self._entries(positions)[["offset", "span"]].tolist()
        for place, content in enumerate(read_parts([(self._file, *entry) for entry in entries])):
            try:
                images[place] = image_of(payload(content))
            except ValueError as error:
                raise ValueError(self._complaint(positions[place], error)) from None
        return images

    def read_named(self, name: str) -> bytes:
        """Return the encoded image of a name as `image_names` gives it."""
        (row,) = self.scan.rows(np.array([int(name.rpartition("/")[2])]))
        whole = dataclasses.replace(self, rows=None)
        image: bytes = whole.read(np.array([row]))[0]
        return image

    def face(
        self, encoded: bytes, position: int, size: tuple[int, int], resize: bool
    ) -> NDArray[np.uint8]:
        """Return an image that `read` gave, decoded: uint8 RGB (height, width, 3) of one size.

        Raises:
            ValueError: it cannot be decoded, or has another size without `resize`; the message
                names record and offset.
        """
        try:
            image = decode_image(encoded)
        except ValueError as error:
            raise ValueError(self._complaint(position, error)) from None
        if image.shape[:2] != size and not resize:
            (name,) = self.describe(np.array([position]))
            raise ValueError(_other_size(f"{self.path}: {name}", path_size(image.shape), size))
        return fit(image, size, resize, self.path)

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise `ValueError` where images are known to have another size, or the first one has."""
        sizes = list(self.scan.sizes or ())
        if not sizes:
            first = self.read(np.arange(1))[0]
            try:
                sizes = [path_size(decode_image(first).shape)]
            except ValueError:  # it will be named when all are decoded
                return
        if sizes != [path_size(size)]:
            raise ValueError(_other_size(str(self.path), and_more(sorted(sizes), 3), size))

    def without(self, out: NDArray[np.bool_]) -> RecordFile:
        """Return the file without the images where `out`, bool (n,), is set.

        Labels are numbered again: a person of whom nothing is left is no class.
        """
        rows = np.arange(len(out), dtype=np.uint32) if self.rows is None else self.rows
        rows = rows[~out]
        return dataclasses.replace(
            self, rows=rows, kept=np.unique(self.scan.images["label"][rows]).astype(np.int32)
        )

    def counts(self) -> NDArray[np.int64]:
        """Return how many images each person has, (num_classes,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @functools.cached_property
    def _file(self) -> RandomAccessFile:
        return RandomAccessFile(self.path)

    def _entries(self, positions: NDArray[np.integer]) -> NDArray[np.void]:
        entries: NDArray[np.void] = self.scan.images[
            positions if self.rows is None else self.rows[positions]
        ]
        return entries

    def _complaint(self, position: Any, error: ValueError) -> str:
        (name,) = self.describe(np.array([position]))
        return f"{self.path}: {name} is damaged: {error}. {_ADVICE}"


def is_rec(path: Any) -> bool:
    """Tell whether a path is a RecordIO file, or a folder with `train.rec` or only .rec files.

    A file whose name ends in .rec is taken for one, whatever it holds.

    Example:

    >>> is_rec("faces/train.rec"), is_rec("no/such/folder")
    (True, False)
    """
    if not isinstance(path, (str, os.PathLike)):
        return False
    path = Path(path)
    if path.is_dir():
        return bool(_files_in(path))
    if path.suffix.lower() == ".rec":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(len(MAGIC)) == MAGIC


def find_rec(path: str | os.PathLike[str]) -> Path:
    """Return the RecordIO file that a path names, or that a folder holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the folder holds several, and none is `train.rec`.

    Warns where `train.rec` is taken and others are beside it.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"path must be a RecordIO file (.rec). Received: {path}")
        return path
    files = _files_in(path)
    if not files:
        raise FileNotFoundError(f"path must hold a RecordIO file, such as train.rec: {path}")
    if len(files) > 1:
        names = and_more([file.name for file in files], 5)
        raise ValueError(f"{path} holds several RecordIO files, name one of them: {names}")
    others = [file.name for file in _all_in(path) if file != files[0]]
    if others:
        text = f"{path}: taking {files[0].name}, not {and_more(others, 5)} beside it"
        warnings.warn(text, SphereFaceWarning, stacklevel=3)
    return files[0]


def _files_in(folder: Path) -> list[Path]:
    """Return `train.rec`, or the .rec files of a folder without subfolders."""
    usual = folder / "train.rec"
    return [usual] if usual.is_file() else _all_in(folder)


def _all_in(folder: Path) -> list[Path]:
    """Return all .rec files of a folder; none where it has subfolders."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                return []
            if entry.name.lower().endswith(".rec"):
                files.append(folder / entry.name)
    return sorted(files)


def open_rec(
    path: str | os.PathLike[str] | RecordFile,
    *,
    errors: Literal["raise", "report", "skip"] = "raise",
    image_size: Size | None = None,
    report: SkipReport | None = None,
    progress: ProgressCallback | None = None,
) -> RecordFile:
    """Open an MXNet RecordIO file of faces, with or without its .idx.

    The headers of all records are read once. What is found is kept in FILE.rec.scan.npz or, where
    that may not be written, in the user's cache, until the file changes.

    Args:
        path: the file, or a folder that holds `train.rec`; one that is open already is returned as
            it is.
        errors: `"raise"`: a record that is cut off or lost is an error now, an image that cannot be
            decoded when it is read. `"report"`: records that are cut off or lost are left out.
            `"skip"`: every image is decoded once, too, and those that cannot be are left out, so
            that the number of images is exact; this is kept as well.
        image_size: (height, width) that every image must have; None: any.
        report: where what is left out is noted, and an .idx that does not fit (it is not needed).
        progress: called with (bytes, in all) while headers are read, then with (images, in all).

    Returns:
        The file. Classes are the labels of the images in ascending order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, such as a web page; is damaged with `"raise"`; has images
            of another size; or nothing is left of it.

    Example:

    >>> from tf_sphereface import data
    >>> _ = data.write_rec(data.synthetic.write_folder("faces", 3, 2), "written")
    >>> records = open_rec("written")
    >>> len(records), records.num_classes, records.names
    (6, 3, ['0', '1', '2'])
    """
    check_choice("errors", errors, ("raise", "report", "skip"))
    if isinstance(path, RecordFile):
        return path
    file = find_rec(path)
    scan = load_scan(file)
    if scan is None:
        scan = scan_file(file, progress)
        keep_scan(file, scan)
    records = RecordFile(file, scan)
    if errors == "raise" and (scan.damage or scan.broken):
        found = damage_of(records)
        others = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
        raise ValueError(f"{file}: {found[0]}{others}. {_ADVICE}")
    if image_size is not None:
        records.check_size(image_size)
    if errors == "skip":
        records = _without_broken(records, progress)
        if image_size is not None:
            records.check_size(image_size)
    if report is not None:
        note_damage(records, report)
    return records


def _without_broken(records: RecordFile, progress: ProgressCallback | None) -> RecordFile:
    """Leave out the images that cannot be decoded, by what is known or by decoding all."""
    scan = records.scan
    if scan.sizes is None:
        scan = dataclasses.replace(scan, **decode_all(records, progress))
        keep_scan(records.path, scan)
    if len(scan.broken) == len(scan.images):
        raise ValueError(f"none of the {len(scan.images):,} images in {records.path} can be read")
    rows = None
    if scan.broken:
        rows = np.delete(np.arange(len(scan.images), dtype=np.uint32), list(scan.broken))
    return dataclasses.replace(records, scan=scan, rows=rows)


def damage_of(records: RecordFile) -> list[Damage]:
    """Return what is known to be damaged, in the order of the file."""
    scan = records.scan
    rows = np.array(list(scan.broken), np.int64)
    broken = zip(
        scan.numbers(rows).tolist(),
        scan.images["offset"][rows].tolist(),
        scan.broken.values(),
        strict=True,
    )
    found = [*scan.damage, *(Damage(number, offset, why) for number, offset, why in broken)]
    return sorted(found, key=lambda entry: entry.offset)


def note_damage(records: RecordFile, report: SkipReport) -> None:
    """Note what is left out, and an .idx that does not fit."""
    for entry in damage_of(records):
        name = f"{records.path}, record {entry.record} at offset {entry.offset}"
        report.add(Path(name), entry.reason)
    wrong = compare_index(records.path, records.scan)
    if wrong is not None:
        report.add(index_path(records.path), wrong)


def _other_size(name: str, held: str, size: tuple[int, int]) -> str:
    """Say that images have another size, and what to do."""
    advice = "Pass resize=True (to train: --resize)"
    if held.count("x") == 1:
        arguments = held.replace("x", ", ")
        advice += f", or image_size=({arguments}) (to train: --input-size {held})"
    expected = f"expected {path_size(size)} (height x width)"
    return f"{name} holds images of {held} pixels, {expected}. {advice}"
