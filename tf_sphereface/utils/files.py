"""Files that are whole or absent: everything is written under a temporary name, then renamed."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.utils.messages import and_more

try:
    import fcntl
except ImportError:  # not on Windows: there no lock tells that another process uses a file
    fcntl = None  # type: ignore[assignment]

MOST_BYTES = 255  # of a file's name, on every common file system


def check_name(path: str | os.PathLike[str], advice: str = "choose a shorter one") -> Path:
    """Return a path that is to be written, or raise ValueError where a name in it is too long.

    Example:

    >>> check_name("x" * 255 + ".tflite")
    Traceback (most recent call last):
        ...
    ValueError: a file's name can have 255 bytes: choose a shorter one. Received: 262 bytes, 'xxx...
    """
    for part in Path(path).parts:
        size = len(os.fsencode(part))
        if size > MOST_BYTES:
            raise ValueError(
                f"a file's name can have {MOST_BYTES} bytes: {advice}. "
                f"Received: {size} bytes, {part!r}"
            )
    return Path(path)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on an error.

    The old file stays intact until the new one is complete. The folder is created when missing. The
    temporary name keeps the suffix, because Keras and the converters choose the format by it.
    What is no file, such as `/dev/stdout` or a named pipe, gets the bytes and stays what it is.
    """
    target = check_name(path)
    if is_stream(target):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name, target.name)
            with target.open("ab") as stream:
                stream.write(Path(name, target.name).read_bytes())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name may have 255 bytes already, the most there are.
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    temporary = folder / target.name
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:
        named = error.filename is not None and not str(error.filename).startswith(str(folder))
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_stream(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or an open descriptor, which is never replaced.

    Example:

    >>> is_stream(Path("/dev/stdout")), is_stream(Path("verdict.json"))
    (True, False)
    """
    folder = str(path.absolute().parent)
    if folder in ("/dev", "/dev/fd", "/proc/self/fd"):  # may lead to a file: of a redirection
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path for a folder; on success put it in the place of the folder `path`.

    The old folder stays intact until the new one is complete, and is removed then.
    """
    target = check_name(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    temporary, old = folder / target.name, folder / "old"
    try:
        yield temporary
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_name(stem: str, ending: str) -> str:
    """Return a file name; where it would pass 255 bytes, a hash replaces the end of its stem.

    Example:

    >>> short_name("clip", "_000025.jpg")
    'clip_000025.jpg'
    >>> len(short_name("x" * 250, "_000025.jpg"))
    255
    """
    room = MOST_BYTES - len(os.fsencode(ending))
    if len(os.fsencode(stem)) <= room:
        return stem + ending
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    while len(os.fsencode(stem + mark)) > room:
        stem = stem[:-1]
    return stem + mark + ending


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    r"""Write `value` as indented JSON, atomically.

    Bytes of file names that are no UTF-8 are written as `\udce9`, which `json` reads back. A float
    that is not finite becomes null.
    """
    with atomic_path(path) as temporary:
        text = json.dumps(without_nan(value), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: there is None in their place.

    Example:

    >>> without_nan({"accuracy": float("nan"), "angles": (1.5, float("inf"))})
    {'accuracy': None, 'angles': [1.5, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; return False where somebody else has locked it.

    Where the system or the disk knows no locks, the answer is True.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as a network disk without locks
        pass
    return True


def begin_folder(out: Path, marker: str, facts: dict[str, Any]) -> None:
    """Make a folder that one call fills, and note in it which, so that the same call may go on.

    Args:
        out: the folder; empty, missing, or begun by the same call.
        marker: the name of the note.
        facts: what makes a call the same one, ready for JSON.

    Raises:
        ValueError: it holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(entry.name for entry in out.iterdir())
    if not names:
        write_json(out / marker, facts)
        return
    with contextlib.suppress(OSError, ValueError):
        if json.loads((out / marker).read_text(encoding="utf-8")) == facts:
            return
    raise ValueError(
        f"target must be empty, or a folder that the same call has begun. Received: {out}, which "
        f"holds {and_more(names, 5)}"
    )


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is not forced onto the disk, as `atomic_path` does.

    For one of very many files that can be made again; the folder must be there.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def text_encoding(path: str | os.PathLike[str]) -> str:
    """Return how a list is to be decoded: `"utf-16"` where its mark says so, else `"utf-8-sig"`.

    Spreadsheets and PowerShell on Windows write UTF-16.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
    ...     _ = Path(file.name).write_text("a b 1", encoding="utf-16")
    ...     text_encoding(file.name)
    'utf-16'
    """
    with open(path, "rb") as file:
        mark = file.read(2)
    return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class RandomAccessFile:
    """A file that is read at given places, by any number of threads, and closed when forgotten."""

    _descriptor = -1

    def __init__(self, path: str | os.PathLike[str]) -> None:
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


SLOW = 5e-5  # seconds of a read, in the mean of a few, after which a file is not in memory
FEW = 8


def read_parts(parts: Sequence[tuple[RandomAccessFile, int, int]]) -> Iterator[bytes]:
    """Yield parts of files, each by file, offset and length.

    Where the first few take long, the system is told of all that follow, and fetches them
    meanwhile. It is not told of parts that it has in memory: each call costs a thread its turn with
    Python's lock.
    """
    taken = 0.0
    for place, (file, offset, length) in enumerate(parts):
        begin = time.perf_counter()
        content = file.read(offset, length)
        taken += time.perf_counter() - begin
        if place + 1 == FEW and taken > FEW * SLOW:
            for other, start, count in parts[FEW:]:
                other.announce(start, count)
        yield content
