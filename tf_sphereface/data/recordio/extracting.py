"""The images of a RecordIO file as a folder per person, byte for byte."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.folder_index import SkipReport
from tf_sphereface.data.recordio.reading import RecordFile, open_rec
from tf_sphereface.utils.files import begin_folder, replace_bytes
from tf_sphereface.utils.messages import ProgressCallback

_CHUNK, _CALL = 2048, 64
_BEGUN = ".extracting.json"  # what is being extracted, until all of it is there
_SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


@dataclasses.dataclass(frozen=True)
class ExtractResult:
    """What `extract_rec` did.

    Attributes:
        path: the folder.
        images: images in it.
        people: folders in it.
        kept: how many images were there already.
        skipped: record, with its offset -> why it could not be read.
    """

    path: Path
    images: int
    people: int
    kept: int
    skipped: dict[str, str]


def extract_rec(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> ExtractResult:
    """Write the images of a RecordIO file into a folder per person: `LABEL/RECORD.jpg`.

    The bytes are those of the records. Labels and record numbers have leading zeros, so that the
    folder lists people and images as the file does. Stopped at any moment, the same call goes on.

    Args:
        source: the file, or a folder that holds `train.rec`.
        target: an empty or missing folder, or one that the same call has begun.
        strict: raise at the first record that cannot be read, rather than leave it out.
        progress: called with (done, in all): bytes, then images decoded, then images written.

    Raises:
        ValueError: as `open_rec`; `target` holds something else.
        OSError: `target` cannot be written.

    Example:

    >>> import tempfile
    >>> from tf_sphereface import data
    >>> faces, written, out = (tempfile.mkdtemp() for _ in range(3))
    >>> _ = data.synthetic.write_folder(faces, 3, 2)
    >>> _ = data.write_rec(faces, written)
    >>> extract_rec(written, out).images, data.scan_folder(out).names
    (6, ['0', '1', '2'])
    """
    out, report = Path(target), SkipReport()
    records = open_rec(
        source, errors="raise" if strict else "skip", report=report, progress=progress
    )
    begin_folder(out, _BEGUN, {"source": records.path.name, "fingerprint": records.fingerprint})
    for name in records.names:
        (out / name).mkdir(exist_ok=True)
    kept = 0

    def extract(begin: int) -> int:
        """Write some images; return how many were there."""
        end = min(begin + _CALL, len(records))
        return _write(records, range(begin, end), out, decode=strict)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for begin in range(0, len(records), _CHUNK):
            end = min(begin + _CHUNK, len(records))
            kept += sum(pool.map(extract, range(begin, end, _CALL)))
            if progress is not None:
                progress(end, len(records))
    (out / _BEGUN).unlink()
    people = len(np.unique(records.labels))
    for name in records.names:
        if people < records.num_classes and not any((out / name).iterdir()):
            (out / name).rmdir()
    skipped = {str(path): why for path, why in report.reasons.items()}
    return ExtractResult(out, len(records), people, kept, skipped)


def _write(records: RecordFile, positions: Sequence[int], out: Path, *, decode: bool) -> int:
    """Write some images under temporary names, and rename them; return how many were there."""
    places = np.array(positions)
    there = 0
    for name, encoded, position in zip(
        records.image_names(places), records.read(places), places, strict=True
    ):
        if decode:
            try:
                decode_image(encoded)
            except ValueError as error:
                (what,) = records.describe(np.array([position]))
                raise ValueError(f"{records.path}: {what} is damaged: {error}") from None
        path = out / (name + _suffix(encoded))
        if path.is_file() and path.stat().st_size == len(encoded):
            there += 1
            continue
        replace_bytes(path, encoded)
    return there


def _suffix(encoded: bytes) -> str:
    """Return the suffix of an image file by its content."""
    found = (suffix for start, suffix in _SUFFIXES if encoded.startswith(start))
    return next(found, ".jpg")
