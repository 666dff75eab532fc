"""`tf_sphereface-align --landmarks`: faces whose five points are known are cut out."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    console,
    progress,
    write_json_option,
)

if TYPE_CHECKING:
    from tf_sphereface.alignment.journal import Journal

SHOWN = 10  # failures that are printed; --json holds them all


def by_landmarks(args: argparse.Namespace) -> int:
    """Write the faces whose points are known."""
    from tf_sphereface.alignment.align import read_landmarks
    from tf_sphereface.alignment.journal import Journal
    from tf_sphereface.alignment.photo_aligner import output_path

    landmarks = read_landmarks(args.landmarks)
    if not landmarks:
        raise CommandError(f"{args.landmarks} names no image")
    outputs = {name: output_path(args.dst, name, args.format) for name in landmarks}
    _refuse_bad_names(outputs, args.dst)
    height, width = (int(side) for side in args.size.split("x"))
    with Journal(args.dst, args.src, fresh=args.overwrite) as journal:
        work = _worker(args, landmarks, outputs, journal)
        written, failures = _run(work, list(landmarks), args.jobs)
        journal.remove_obsolete(map(_inside, landmarks))
    kept = len(landmarks) - written - len(failures)
    say_written(args, written, kept, len(failures))
    write_json_option(
        args.json,
        {
            "src": str(args.src),
            "dst": str(args.dst),
            "size": [height, width],
            "written": written,
            "already_there": kept,
            "failed": failures,
        },
    )
    raise_if_any(failures, "--json FILE lists them all")
    return EXIT_OK


def say_written(args: argparse.Namespace, written: int, kept: int, failed: int) -> None:
    """Print how many faces there are now in DST, and how many could not be had."""
    console.print(
        f"{args.dst}: {written:,} faces of {args.size} written, {kept:,} were there, "
        f"{failed:,} failed",
        highlight=False,
        soft_wrap=True,
    )


def raise_if_any(failures: dict[str, str], where: str) -> None:
    """Raise CheckFailed with the first failures, and where the others are."""
    if failures:
        lines = [f"  {name}: {why}" for name, why in list(failures.items())[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"  and {len(failures) - SHOWN:,} more ({where})")
        raise CheckFailed("\n".join([f"{len(failures):,} images could not be aligned:", *lines]))


def _worker(
    args: argparse.Namespace,
    landmarks: dict[str, np.ndarray],
    outputs: dict[str, Path],
    journal: Journal,
) -> Callable[[str], bool]:
    """Return what writes the face of one image, and tells whether it had to.

    A face is there already only if the journal says that it was made from these points, from this
    file and with these settings. It raises OSError or ValueError with the reason for a failure.
    """
    from tf_sphereface.alignment.align import align
    from tf_sphereface.alignment.images import read_photo, write_face

    height, width = (int(side) for side in args.size.split("x"))
    names = frozenset(map(_inside, landmarks))

    def work(name: str) -> bool:
        source, target, points = args.src / name, outputs[name], landmarks[name]
        stat = source.stat()
        digest = hashlib.sha256(np.ascontiguousarray(points, "<f8").tobytes()).hexdigest()
        made = (args.size, args.format, args.quality, stat.st_size, stat.st_mtime_ns)
        output = " ".join(["landmarks", digest, *map(str, made)])
        inside, files = _inside(name), [target.relative_to(args.dst).as_posix()]
        if journal.is_done(inside, output, files):
            return False
        reason = None if args.overwrite else journal.obstacle(inside, files, names)
        if reason is not None:
            raise ValueError(reason)
        face = align(read_photo(source), points, (height, width), antialias=True)
        journal.claim(inside, files)
        write_face(target, face, args.quality)
        journal.written(inside, output, files)
        return True

    return work


def _inside(name: str) -> str:
    """Return the name as a folder's listing has it, without `./`."""
    return Path(name).as_posix()


def _run(
    work: Callable[[str], bool], names: Sequence[str], jobs: int
) -> tuple[int, dict[str, str]]:
    """Run `work` on every name in threads; count what it wrote and collect why it failed."""
    written, reasons = 0, {}
    with progress("aligning ") as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("", total=len(names))
        futures = {pool.submit(work, name): name for name in names}
        try:
            for future in as_completed(futures):
                try:
                    written += future.result()
                except FileNotFoundError:
                    reasons[futures[future]] = "missing"
                except (OSError, ValueError) as error:
                    reasons[futures[future]] = str(error)
                bar.advance(task)
        except BaseException:  # an interrupt too: do not finish the queue first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return written, {name: reasons[name] for name in names if name in reasons}


def _refuse_bad_names(outputs: dict[str, Path], dst: Path) -> None:
    """Refuse names that lead outside the folders, and two names for one face."""
    owners: dict[Path, str] = {}
    for name, path in outputs.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CommandError(f"the landmark file names a path outside SRC: {name!r}")
        if path in owners:
            raise CommandError(
                f"{name!r} and {owners[path]!r} would both be written to {path.relative_to(dst)}"
            )
        owners[path] = name
