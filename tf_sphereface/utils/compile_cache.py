"""Folder in which TensorFlow keeps what XLA has compiled, for the next run of a command.

TensorFlow reads its name when it looks for devices, so `startup` sets it before. An executable is
found again by its function's name and its code, whatever the machine or the version; so each kind
of machine and each version has a folder of its own. TensorFlow renames a file when it is complete,
so several runs may share the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

OFF = "none"
VARIABLE = "TF_XLA_FLAGS"
FLAG = "--tf_xla_persistent_cache_directory="
READ_ONLY = "--tf_xla_persistent_cache_read_only=true"
FREE = 512 * 2**20  # bytes of a disk, below which nothing is written: a step fails on a full one
LARGEST = 2 * 2**30  # bytes; of more, the oldest files are removed, to half of it
DAY = 86_400  # seconds, after which a file that was never completed is removed
DAMAGED = (
    "xla_compile_cache",
    "Serialized cache key does not match",
    "Read less bytes than requested",
)
"""In TensorFlow's errors about files of the cache."""


def default_folder() -> Path:
    """Return the folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "tf_sphereface" / "xla"


def folder_from(arguments: Sequence[str], has_gpu: bool) -> Path | None:
    """Return the folder that a command line of `tf_sphereface-train` asks for, or None.

    Without `--compile-cache` it is the default, where the step is compiled: with a GPU, or with
    `--jit on`.

    Example:

    >>> folder_from(["--data", "faces", "--compile-cache", "compiled"], has_gpu=False).name
    'compiled'
    >>> folder_from(["--data", "faces"], has_gpu=False)
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--compile-cache")
    parser.add_argument("--jit")
    try:
        line, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # the command's own parser will say what is wrong
        return None
    if line.compile_cache is not None:
        return None if line.compile_cache == OFF else Path(line.compile_cache).expanduser()
    compiled = line.jit != "off" and (has_gpu or line.jit == "on")
    return default_folder() if compiled else None


def machine_folder(folder: Path) -> Path:
    """Return the folder for this version of TensorFlow and this kind of processor and GPU.

    Example:

    >>> machine_folder(Path("cache")).parent.name
    'cache'
    """
    version = _version()
    kind = hashlib.sha256(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode())
    lists = [Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")]
    gpus = Path("/proc/driver/nvidia/gpus")
    lists += sorted(gpus.glob("*/information")) if gpus.is_dir() else []
    for path in lists:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        facts = ("model name", "flags", "Features", "Model", "NVRM")
        kind.update("\n".join(sorted({x for x in lines if x.startswith(facts)})).encode())
    return folder / f"{version}-{kind.hexdigest()[:12]}"


def _version() -> str:
    for package in ("tensorflow", "tensorflow-cpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def start(folder: Path) -> str:
    """Let TensorFlow keep compiled functions in a folder; return what is wrong with it, or "".

    To be called before TensorFlow looks for devices. A folder that cannot be written is read; one
    that cannot be made, and one on a full disk, has no effect. What the user has set stays.
    """
    if FLAG in os.environ.get(VARIABLE, ""):
        return ""
    place = machine_folder(folder)
    if any(character.isspace() for character in str(place)):
        return f"nothing that is compiled is kept: TensorFlow takes no folder with spaces: {place}"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_old(place)
    except OSError as error:
        return f"nothing that is compiled is kept: {error}"
    problem, flags = "", [f"{FLAG}{place}"]
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
        if free < FREE:
            problem = f"only {free / 1e6:.0f} MB are free for {folder}: it is read, not written"
    except OSError as error:
        problem = f"the compile cache is read, not written: {error}"
    if problem:
        flags.append(READ_ONLY)
    os.environ[VARIABLE] = " ".join([*os.environ.get(VARIABLE, "").split(), *flags])
    return problem


def started() -> Path | None:
    """Return the folder that TensorFlow was told to use, or None."""
    for flag in os.environ.get(VARIABLE, "").split():
        if flag.startswith(FLAG):
            return Path(flag.removeprefix(FLAG))
    return None


def is_damaged(message: str) -> bool:
    """Tell whether an error of TensorFlow's is about a file of the cache that is used."""
    return started() is not None and any(words in message for words in DAMAGED)


def _remove_old(folder: Path) -> None:
    """Remove files that were never completed and, of too many, the oldest."""
    files = []
    for path in folder.glob("xla_compile_cache*"):
        try:
            facts = path.stat()
        except OSError:  # another run has removed or renamed it
            continue
        if path.suffix == ".tmp" and time.time() - facts.st_mtime > DAY:
            path.unlink(missing_ok=True)
        elif path.suffix != ".tmp":
            files.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in files)
    if total > LARGEST:
        for _, size, path in sorted(files):
            path.unlink(missing_ok=True)
            total -= size
            if total <= LARGEST / 2:
                break
