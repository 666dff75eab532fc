"""Faces as an MXNet RecordIO file in insightface's form: .rec, .idx, .lst and `property`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.decoding import read_bytes
from tf_sphereface.data.exclusions import image_names
from tf_sphereface.data.folder_index import FolderIndex
from tf_sphereface.data.recordio.framing import frames
from tf_sphereface.data.recordio.image_header import INEXACT, image_header, pair_header
from tf_sphereface.data.recordio.listing import by_person
from tf_sphereface.data.stored_faces import StoredFaces, open_stored
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.messages import ProgressCallback, and_more

_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class RecResult:
    """What `write_rec` wrote.

    Attributes:
        path: the .rec file; .idx, .lst and `property` are beside it.
        images: images in it.
        people: identities.
        bytes: its size.
        image_size: (height, width) of every image; None where they differ.
        skipped: image -> why it could not be read.
    """

    path: Path
    images: int
    people: int
    bytes: int
    image_size: tuple[int, int] | None
    skipped: dict[str, str]


def write_rec(
    source: StoredFaces | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> RecResult:
    """Write faces as an MXNet RecordIO file, in the form that insightface reads.

    Record 0 counts, records 1 to n are the images by person with one label each, and a record per
    person says which are theirs. The .lst beside it has a line per image, `key TAB label TAB path`.
    Encoded images go in as they are. Nothing is there until all of it is.

    Args:
        source: a folder of identity folders, a packed folder, a RecordIO file, or one of them open.
        target: a new file whose name ends in .rec, or a folder, for `train.rec` in it.
        strict: raise at the first image that cannot be decoded, rather than leave it out.
        progress: called with (done, in all) images.

    Raises:
        ValueError: the file is there already, or `property` of another one beside it; no image can
            be read; a person's number is beyond what float32 holds.
        OSError: it cannot be written.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, written = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = data.synthetic.write_folder(faces, 3, 2)
    >>> result = write_rec(faces, written)
    >>> result.images, result.people, result.path.name
    (6, 3, 'train.rec')
    """
    path = _target(Path(target))
    faces, lost = open_stored(source, strict)
    if faces.num_classes > INEXACT:
        raise ValueError(
            f"a .rec file can hold {INEXACT:,} people. Received: {faces.num_classes:,}"
        )
    places = [path, path.with_suffix(".idx"), path.with_suffix(".lst")]
    with contextlib.ExitStack() as stack:  # the .rec is renamed last
        temporary = [stack.enter_context(atomic_path(place)) for place in places]
        rec, idx, lst = (stack.enter_context(place.open("wb")) for place in temporary)
        writer = _Writer(faces, rec, idx, lst, lost)
        writer.write_images(strict, progress)
        if not writer.count:
            name, why = next(iter(writer.skipped.items()))
            raise ValueError(
                f"none of the {len(faces):,} images in {faces.root} can be read. "
                f"The first: {name}: {why}"
            )
        written = writer.write_ranges()
    size = next(iter(writer.sizes)) if len(writer.sizes) == 1 else None
    if size is not None:  # `property` has room for one
        with atomic_path(path.with_name("property")) as place:
            place.write_text(f"{faces.num_classes},{size[0]},{size[1]}\n")
    return RecResult(path, writer.count, faces.num_classes, written, size, writer.skipped)


def _target(target: Path) -> Path:
    """Return the file to write, or raise where something is in its place."""
    is_file = target.suffix.lower() == ".rec" and not target.is_dir()
    path = target if is_file else target / "train.rec"
    others = sorted(path.parent.glob("*.rec"))
    for place in (path, path.with_suffix(".idx"), path.with_suffix(".lst")):
        if place.exists():
            raise ValueError(
                f"target must be a new file. Received: {path}, and {place} is there already"
            )
    if others and path.with_name("property").exists():
        raise ValueError(
            f"target must be in a folder of its own: {path.parent} has `property` of "
            f"{and_more([other.name for other in others], 3)}"
        )
    return path


class _Writer:
    """The records of one file, and the lines about them."""

    def __init__(
        self,
        faces: StoredFaces,
        rec: BinaryIO,
        idx: BinaryIO,
        lst: BinaryIO,
        skipped: dict[str, str],
    ) -> None:
        self.faces, self.rec, self.idx, self.lst, self.skipped = faces, rec, idx, lst, skipped
        self.count = self.place = 0
        self.counts = np.zeros(faces.num_classes, np.int64)
        self.sizes: set[tuple[int, int]] = set()

    def write_images(self, strict: bool, progress: ProgressCallback | None) -> None:
        """Write the images that can be decoded, by person."""
        labels, names = np.asarray(self.faces.labels), image_names(self.faces)
        order = by_person(labels)
        self._add(0, pair_header(0, 0, 0))  # the counts are known at the end
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for begin in range(0, len(order), _CHUNK):
                piece = order[begin : begin + _CHUNK].tolist()
                for position, found in zip(piece, pool.map(self._load, piece), strict=True):
                    if isinstance(found, str):
                        self._skip(names[position], found, strict)
                        continue
                    encoded, size = found
                    label = int(labels[position])
                    self.count += 1
                    self.counts[label] += 1
                    self.sizes.add(size)
                    self._add(self.count, image_header(label, self.count) + encoded)
                    name = re.sub(r"[\t\r\n]+", " ", names[position])  # a line each
                    line = f"{self.count}\t{label}\t{name}\n"
                    self.lst.write(os.fsencode(line))
                if progress is not None:
                    progress(begin + len(piece), len(order))

    def write_ranges(self) -> int:
        """Write which images are whose, and the counts; return the bytes of the file."""
        ends = (1 + np.cumsum(self.counts)).tolist()
        key = self.count + 1
        for begin, end in zip([1, *ends[:-1]], ends, strict=True):
            self._add(key, pair_header(begin, end, key))
            key += 1
        self.rec.seek(0)
        self.rec.write(frames(pair_header(self.count + 1, key, 0)))
        return self.place

    def _add(self, key: int, payload: bytes) -> None:
        self.idx.write(b"%d\t%d\n" % (key, self.place))
        self.place += self.rec.write(frames(payload))

    def _load(self, position: int) -> tuple[bytes, tuple[int, int]] | str:
        """Return an encoded image and its size, or why it cannot be decoded."""
        try:
            if isinstance(self.faces, FolderIndex):
                encoded = read_bytes(self.faces.paths[position])
            else:
                encoded = self.faces.read(np.array([position]))[0]
            height, width = decode_image(encoded).shape[:2]
        except ValueError as error:
            return str(error)
        return encoded, (height, width)

    def _skip(self, name: str, reason: str, strict: bool) -> None:
        if strict:
            raise ValueError(f"{self.faces.root}: {name} cannot be decoded: {reason}")
        self.skipped[name] = reason
