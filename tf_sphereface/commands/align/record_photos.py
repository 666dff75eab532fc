"""The photographs of a RecordIO file, as a folder beside DST for as long as they are aligned."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from tf_sphereface.commands.console import CheckFailed, CommandError, note, progress_bar


@contextlib.contextmanager
def photos_of(source: Path, target: Path, *, strict: bool = False) -> Iterator[Path]:
    """Yield `source`, or the folder into which the images of a .rec file are extracted.

    The folder, `.DST.photos`, is removed at the end. A run that is stopped leaves it, so that the
    next one goes on with the same files. With `strict` a damaged record is an error.
    """
    from tf_sphereface import data

    if not data.is_rec(source):
        yield source
        return
    target = target.absolute()
    if target.is_file():
        raise CommandError(f"DST must be a folder. Received: {target}")
    folder = target.with_name(f".{target.name}.photos")
    photos = folder / data.open_rec(source, errors="report").fingerprint
    if not photos.is_dir():
        if not photos.with_suffix(".partial").is_dir():  # those of another file
            shutil.rmtree(folder, ignore_errors=True)
        with progress_bar("extracting") as show:
            place = photos.with_suffix(".partial")
            result = data.extract_rec(source, place, strict=strict, progress=show)
        photos.with_suffix(".partial").rename(photos)
        note(f"{source}: {result.images:,} images lie in {photos} while they are aligned")
        if result.skipped:
            note(f"damaged records left out: {len(result.skipped):,}; tf_sphereface-data check")
    try:
        yield photos
    except (CheckFailed, CommandError, ValueError, ImportError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
