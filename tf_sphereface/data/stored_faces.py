"""Faces in files, opened to be read once: a folder, a pack or a RecordIO file."""

from __future__ import annotations

import os

from tf_sphereface.data.folder_index import FolderIndex, SkipReport, scan_folder
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.reading import Pack, open_pack
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec

StoredFaces = FolderIndex | Pack | RecordFile


def open_stored(
    source: StoredFaces | str | os.PathLike[str], strict: bool
) -> tuple[StoredFaces, dict[str, str]]:
    """Open faces, of which those that cannot be decoded are found when they are read.

    Args:
        source: a folder of identity folders, a packed folder, a RecordIO file, or one of them open.
        strict: raise for what is damaged or passed over.

    Returns:
        The faces, and the records that are lost before they can be read: name -> why.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: there is no face; with `strict`, something is damaged or passed over.
    """
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, FolderIndex) and not source.checked:  # else it was said then
            source.passed_over.settle(source.root, strict)
        return source, {}
    if is_pack(source):
        report = SkipReport()
        pack = open_pack(source, errors="raise" if strict else "skip", report=report)
        return pack, {str(path): why for path, why in report.reasons.items()}
    if is_rec(source):
        records = open_rec(source, errors="raise" if strict else "report")
        return records, {
            f"record {entry.record} at offset {entry.offset}": entry.reason
            for entry in records.scan.damage
        }
    index = scan_folder(source)
    index.passed_over.settle(index.root, strict)
    return index, {}
