"""The check of a RecordIO file: every frame, every image, the .idx and `property` beside it."""

from __future__ import annotations

import dataclasses
import os

from tf_sphereface.data.recordio.decoding import decode_all
from tf_sphereface.data.recordio.index_file import compare_index, index_path, read_property
from tf_sphereface.data.recordio.reading import RecordFile, damage_of, find_rec
from tf_sphereface.data.recordio.scan import scan_file
from tf_sphereface.data.recordio.scan_cache import keep_scan
from tf_sphereface.utils.messages import ProgressCallback


@dataclasses.dataclass(frozen=True)
class RecCheck:
    """What `check_rec` found.

    Attributes:
        images: images in the file, those that cannot be read included.
        people: identities.
        files: file name -> what is wrong with it as a whole, such as an .idx of another file.
        records: record, with its offset -> why it cannot be read.
        notes: what is unusual and no damage.
    """

    images: int
    people: int
    files: dict[str, str]
    records: dict[str, str]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.files or self.records)


def check_rec(
    path: str | os.PathLike[str], *, progress: ProgressCallback | None = None
) -> RecCheck:
    """Read every record of a RecordIO file, and decode every image.

    RecordIO has no checksums: an image whose bytes changed and that still decodes goes unnoticed.
    The result is kept, so that training leaves out what cannot be read without looking for it.
    Arguments and errors are those of `open_rec`.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, written = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = data.synthetic.write_folder(faces, 3, 2)
    >>> check_rec(data.write_rec(faces, written).path).ok
    True
    """
    file = find_rec(path)
    scan = scan_file(file, progress)
    scan = dataclasses.replace(scan, **decode_all(RecordFile(file, scan), progress))
    keep_scan(file, scan)
    records = RecordFile(file, scan)
    wrong = compare_index(file, scan)
    return RecCheck(
        images=len(scan.images) + len(scan.damage),
        people=len(scan.people),
        files={} if wrong is None else {index_path(file).name: wrong},
        records={
            f"record {entry.record} at offset {entry.offset}": entry.reason
            for entry in damage_of(records)
        },
        notes=notes_of(records),
    )


def notes_of(records: RecordFile) -> list[str]:
    """Say what is unusual about a file and no damage, a line each."""
    scan, notes = records.scan, records.scan.notes()
    try:
        said = read_property(records.path)
    except (OSError, ValueError) as error:
        return [*notes, str(error)]
    if said is None:
        return notes
    if said.classes != len(scan.people):
        people = f"{said.classes:,} people, {len(scan.people):,} are there"
        notes.append(f"the file `property` counts {people}")
    size = f"{said.height}x{said.width}"
    if scan.sizes and list(scan.sizes) != [size]:
        notes.append(f"the file `property` says {size}, the images are {', '.join(scan.sizes)}")
    return notes
