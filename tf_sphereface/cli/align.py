"""`tf_sphereface-align`: a folder of photographs becomes a folder of aligned faces."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from tf_sphereface.cli.common import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    add_json_option,
    command,
    console,
    existing_dir,
    existing_file,
    make_parser,
    progress,
    write_json_option,
)

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = """\
Cut an aligned face out of every image that the landmark file names: the similarity transform that
brings five points closest to the template, bilinear interpolation, black outside the image. DST
gets the folders and names of SRC, so that lists such as LFW's pairs.txt stay valid. Images that are
there already are left alone, so a stopped run goes on where it was.

The landmark file has a line an image: its path inside SRC, then x and y of the left eye, right eye,
nose, left and right mouth corner (left and right as seen in the image), separated by tabs.

exit code: 0 all aligned, 1 some images failed (they are listed, the others written), 2 bad input
"""
EXAMPLES = """\
  tf_sphereface-align lfw/ lfw_aligned/ --landmarks landmarks.tsv
  tf_sphereface-align photos/ faces/ --landmarks points.tsv --size 112x112 --format png"""
SHOWN = 10  # failures that are printed; --json holds them all


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("align", DESCRIPTION, EXAMPLES)
    parser.add_argument("src", type=existing_dir, metavar="SRC", help="the folder of images")
    parser.add_argument("dst", type=Path, metavar="DST", help="where to write the faces")
    parser.add_argument(
        "--landmarks", type=existing_file, metavar="FILE", help="five points an image (required)"
    )
    parser.add_argument(
        "--size", default="112x96", choices=("112x96", "112x112"), help="height x width of a face"
    )
    parser.add_argument(
        "--format",
        choices=("keep", "jpg", "png"),
        default="keep",
        help="of the faces; keep: that of each image, and other suffixes become .png",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="of JPEG, from 1 to 100"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads"
    )
    parser.add_argument("--overwrite", action="store_true", help="align again what is there")
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.landmarks is None:
        raise CommandError(
            "--landmarks FILE is needed: a line an image, its path inside SRC and five x, y pairs, "
            "separated by tabs. Find the points with any face landmark detector"
        )
    if not 1 <= args.quality <= 100:
        raise CommandError(f"--quality must be from 1 to 100. Received: {args.quality}")
    if args.jobs < 1:
        raise CommandError(f"--jobs must be at least 1. Received: {args.jobs}")
    if args.dst.resolve() == args.src.resolve():
        raise CommandError("DST must be another folder than SRC: aligning would replace the images")

    from tf_sphereface._extras import require
    from tf_sphereface.data.alignment import read_landmarks

    require("skimage.transform", extra="align")  # fail once here, not for every image
    landmarks = read_landmarks(args.landmarks)
    if not landmarks:
        raise CommandError(f"{args.landmarks} names no image")
    outputs = {name: _output(args.dst, name, args.format) for name in landmarks}
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
    if failures:
        lines = [f"  {name}: {why}" for name, why in list(failures.items())[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"  and {len(failures) - SHOWN:,} more (--json FILE lists them all)")
        raise CheckFailed("\n".join([f"{len(failures):,} images could not be aligned:", *lines]))
    return EXIT_OK


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
    import cv2

    from tf_sphereface._files import atomic_path
    from tf_sphereface.data.alignment import align, read_image

    face = align(read_image(source), points, size)
    options = [] if target.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    encoded = cv2.imencode(target.suffix, cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)[1]
    with atomic_path(target) as temporary:
        temporary.write_bytes(encoded.tobytes())


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


def _output(dst: Path, name: str, kind: str) -> Path:
    """Return where the face of `name` goes."""
    path = dst / name
    if kind == "keep":
        return (
            path if path.suffix.lower() in (".jpg", ".jpeg", ".png") else path.with_suffix(".png")
        )
    return path.with_suffix(f".{kind}")


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


if __name__ == "__main__":
    raise SystemExit(main(None))
