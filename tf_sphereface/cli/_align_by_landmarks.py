"""`tf_sphereface-align --landmarks`: faces whose five points are known are cut out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from tf_sphereface.cli.common import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    console,
    progress,
    write_json_option,
)

if TYPE_CHECKING:
    import numpy as np

SHOWN = 10  # failures that are printed; --json holds them all


def by_landmarks(args: argparse.Namespace) -> int:
    """Write the faces whose points are known."""
    from tf_sphereface.cli._align_photos import output_path
    from tf_sphereface.data.alignment import read_landmarks

    landmarks = read_landmarks(args.landmarks)
    if not landmarks:
        raise CommandError(f"{args.landmarks} names no image")
    outputs = {name: output_path(args.dst, name, args.format) for name in landmarks}
    _refuse_bad_names(outputs, args.dst)

    height, width = (int(side) for side in args.size.split("x"))

    def work(name: str) -> bool:
        source, target = args.src / name, outputs[name]
        if target.is_file() and not args.overwrite:
            _check_size(target, (height, width))
            return False
        align_file(source, target, landmarks[name], (height, width), args.quality)
        return True

    written, failures = _run(work, list(landmarks), args.jobs)
    kept = len(landmarks) - written - len(failures)
    console.print(
        f"{args.dst}: {written:,} faces of {args.size} written, {kept:,} were there, "
        f"{len(failures):,} failed",
        highlight=False,
        soft_wrap=True,
    )
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


def raise_if_any(failures: dict[str, str], where: str) -> None:
    """Raise CheckFailed with the first failures, and where the others are."""
    if failures:
        lines = [f"  {name}: {why}" for name, why in list(failures.items())[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"  and {len(failures) - SHOWN:,} more ({where})")
        raise CheckFailed("\n".join([f"{len(failures):,} images could not be aligned:", *lines]))


def align_file(
    source: Path, target: Path, points: np.ndarray, size: tuple[int, int], quality: int = 95
) -> None:
    """Align one image file and write the face, whole or not at all.

    Args:
        source: the image.
        target: where the face goes; its suffix chooses the format.
        points: (5, 2), as for `align`.
        size: (height, width) of the face.
        quality: of JPEG, from 1 to 100.

    Raises:
        OSError: the image cannot be read or the face not written.
        ValueError: the file is no image, or the points are in one place.
    """
    from tf_sphereface.data.alignment import align, write_face
    from tf_sphereface.data.photos import read_photo

    write_face(target, align(read_photo(source), points, size, antialias=True), quality)


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


def _check_size(path: Path, size: tuple[int, int]) -> None:
    """Raise `ValueError` when the face that is there already has another size or is broken."""
    from tf_sphereface.data.alignment import read_image

    found = read_image(path).shape[:2]
    if found != size:
        raise ValueError(
            f"{path} is there already, {found[0]}x{found[1]} pixels instead of "
            f"{size[0]}x{size[1]}; --overwrite replaces it"
        )


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
