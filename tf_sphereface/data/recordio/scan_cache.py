"""Scans that are kept beside their file or, where that may not be written, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.data.recordio.scan import Scan, facts_of, from_arrays
from tf_sphereface.utils.files import atomic_path

_VERSION = 1
_ENDS = 4096  # bytes at both ends that are compared, beside size and time of change
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


def load_scan(path: Path) -> Scan | None:
    """Return the scan that was kept of a file, None where there is none or the file has changed."""
    key = file_key(path)
    for place in _places(path):
        with contextlib.suppress(*_UNUSABLE), place.open("rb") as handle:
            stored = np.load(handle, allow_pickle=False)
            facts = json.loads(stored["facts"].tobytes())
            if facts["key"] == key:
                return from_arrays({name: stored[name] for name in stored.files}, facts)
    return None


def keep_scan(path: Path, scan: Scan) -> Path | None:
    """Keep a scan for the next start; return where, None where nothing may be written."""
    text = json.dumps({"key": file_key(path), **facts_of(scan)}).encode()
    for place in _places(path):
        with contextlib.suppress(OSError), atomic_path(place) as temporary:
            np.savez(
                temporary,
                facts=np.frombuffer(text, np.uint8),
                images=scan.images,
                people=scan.people,
                others=scan.others,
            )
            return place
    return None


def _places(path: Path) -> Iterator[Path]:
    """Yield the files where the scan of a file may be kept, the best first."""
    yield path.with_name(f"{path.name}.scan.npz")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    yield _user_cache() / "tf_sphereface" / "recordio" / f"{name}.npz"


def _user_cache() -> Path:
    """Return the folder that the system has for what can be made again."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def file_key(path: Path) -> dict[str, Any]:
    """Return what changes when a file does: size, time of change, and the bytes at both ends."""
    stat = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        digest.update(handle.read(_ENDS))
        handle.seek(max(0, stat.st_size - _ENDS))
        digest.update(handle.read(_ENDS))
    return {
        "version": _VERSION,
        "size": stat.st_size,
        "changed": stat.st_mtime_ns,
        "ends": digest.hexdigest(),
    }
