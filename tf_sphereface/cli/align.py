"""`tf_sphereface-align`: a folder of photographs becomes a folder of aligned faces."""

from __future__ import annotations

import argparse
import os
import time
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
Find the faces in a folder of photographs and cut them out, aligned: the similarity transform that
brings eyes, nose and mouth corners closest to the template, bilinear, black outside the image. DST
gets the folders and names of SRC, so that lists such as LFW's pairs.txt stay valid. It also gets
landmarks.tsv, the points that were found, and report.tsv, every image without a face, with several,
too small or unreadable. A stopped run goes on where it was.

Detection needs the package mtcnn: pip install "tf_sphereface[align]". With --landmarks FILE nothing
is detected. That file has a line an image: its path inside SRC, then x and y of the left eye, right
eye, nose, left and right mouth corner (left and right as seen in the image), separated by tabs.

exit code: 0 all aligned, 1 some images gave no face (they are listed, the others written),
2 bad input
"""
EXAMPLES = """\
  tf_sphereface-align photos/ faces/
  tf_sphereface-align holiday/ faces/ --select all --min-face 60 --size 112x112 --format png
  tf_sphereface-align clips/ faces/ --every 25
  tf_sphereface-align lfw/ lfw_aligned/ --landmarks landmarks.tsv"""
SHOWN = 10  # failures that are printed; --json holds them all
DETECTION = ("select", "min_face", "max_side", "every", "report", "landmarks_out")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("align", DESCRIPTION, EXAMPLES)
    parser.add_argument("src", type=existing_dir, metavar="SRC", help="the folder of images")
    parser.add_argument("dst", type=Path, metavar="DST", help="where to write the faces")
    parser.add_argument(
        "--landmarks",
        type=existing_file,
        metavar="FILE",
        help="five points an image, instead of detecting them",
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
    parser.add_argument(
        "--overwrite", action="store_true", help="detect and align again what is there"
    )
    add_json_option(parser)
    group = parser.add_argument_group("detection")
    group.add_argument(
        "--select",
        choices=("center", "largest", "all"),
        help="which face of an image: the one nearest the centre (the default), the largest, or "
        "all, written as NAME_1, NAME_2, ... from the largest on",
    )
    group.add_argument(
        "--min-face",
        type=float,
        metavar="N",
        help="smaller faces, in pixels, are not written but reported (28; at least 20)",
    )
    group.add_argument(
        "--max-side",
        type=int,
        metavar="N",
        help="faces are looked for in the image reduced to this many pixels (1600), and cut out "
        "of the image as it is",
    )
    group.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="also take each N-th frame of the videos in SRC, as VIDEO_000000.jpg; without it "
        "videos are left out",
    )
    group.add_argument(
        "--report", type=Path, metavar="FILE", help="DST/report.tsv; a .json has every image"
    )
    group.add_argument(
        "--landmarks-out", type=Path, metavar="FILE", help="the points found: DST/landmarks.tsv"
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if not 1 <= args.quality <= 100:
        raise CommandError(f"--quality must be from 1 to 100. Received: {args.quality}")
    if args.jobs < 1:
        raise CommandError(f"--jobs must be at least 1. Received: {args.jobs}")
    if args.dst.resolve() == args.src.resolve():
        raise CommandError("DST must be another folder than SRC: aligning would replace the images")

    from tf_sphereface._extras import require

    require("skimage.transform", extra="align")  # fail once here, not for every image
    if args.landmarks is None:
        return _detect(args)
    given = [f"--{name.replace('_', '-')}" for name in DETECTION if getattr(args, name) is not None]
    if given:
        raise CommandError(f"{', '.join(given)}: only without --landmarks, when faces are detected")
    return _by_landmarks(args)


def _detect(args: argparse.Namespace) -> int:
    """Find the faces, write them, and say what was found."""
    from tf_sphereface.cli._align_photos import Aligner, Settings, single_threaded_operations
    from tf_sphereface.cli._align_report import FAILURES, counts, write_landmarks, write_report
    from tf_sphereface.detect import FaceDetector

    min_face = 28.0 if args.min_face is None else args.min_face
    if not min_face >= 20:
        raise CommandError(f"--min-face must be at least 20 pixels. Received: {args.min_face}")
    if args.every is not None and args.every < 1:
        raise CommandError(f"--every must be at least 1. Received: {args.every}")
    if args.max_side is not None and args.max_side < 100:
        raise CommandError(f"--max-side must be at least 100 pixels. Received: {args.max_side}")
    report = args.report or args.dst / "report.tsv"
    if report.suffix.lower() not in (".tsv", ".json"):
        raise CommandError(f"--report must end in .tsv or .json. Received: {report}")
    height, width = (int(side) for side in args.size.split("x"))
    settings = Settings(
        src=args.src,
        dst=args.dst,
        size=(height, width),
        select=args.select or "center",
        min_face=min_face,
        format=args.format,
        quality=args.quality,
        jobs=args.jobs,
        every=args.every,
        overwrite=args.overwrite,
    )
    with single_threaded_operations():
        # One level of the pyramid below, so that faces that are a little too small are reported.
        smallest = max(20.0, 0.709 * min_face)
        try:
            detector = FaceDetector(min_face=smallest, max_side=args.max_side or 1600)
        except ImportError as error:
            raise CommandError(
                f"{error}. Without a detector, give the points: --landmarks FILE"
            ) from error
        aligner = Aligner(settings, detector)
        begin = time.perf_counter()
        outcomes = aligner.run()
        seconds = time.perf_counter() - begin

    landmarks = args.landmarks_out or args.dst / "landmarks.tsv"
    write_landmarks(landmarks, outcomes)
    write_report(report, outcomes)
    number = counts(outcomes)
    failed = [outcome for outcome in outcomes if outcome.problem in FAILURES]
    written = sum(outcome.written for outcome in outcomes)
    kept = sum(outcome.kept for outcome in outcomes)
    rate = len(outcomes) / max(seconds, 1e-9)
    console.print(
        f"{args.dst}: {written:,} faces of {args.size} written, {kept:,} were there, "
        f"{len(failed):,} failed",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{len(outcomes):,} images in {seconds:.1f} s, {rate:.1f} a second in {args.jobs} threads; "
        + ", ".join(f"{problem}: {count:,}" for problem, count in number.items() if count)
        + (f"; {report}" if any(number.values()) else "no problems"),
        highlight=False,
        soft_wrap=True,
    )
    if aligner.videos_left_out:
        console.print(
            f"{aligner.videos_left_out:,} videos were left out; --every N takes their frames",
            highlight=False,
        )
    write_json_option(
        args.json,
        {
            "src": str(args.src),
            "dst": str(args.dst),
            "size": [height, width],
            "select": settings.select,
            "min_face": min_face,
            "images": len(outcomes),
            "written": written,
            "already_there": kept,
            "problems": number,
            "failed": {o.found.name: f"{o.problem} {o.detail}".strip() for o in failed},
            "seconds": round(seconds, 3),
            "images_per_second": round(rate, 2),
            "landmarks": str(landmarks),
            "report": str(report),
        },
    )
    _raise_if_any(
        {o.found.name: f"{o.problem}{': ' if o.detail else ''}{o.detail}" for o in failed},
        f"{report} lists them all",
    )
    return EXIT_OK


def _by_landmarks(args: argparse.Namespace) -> int:
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
    _raise_if_any(failures, "--json FILE lists them all")
    return EXIT_OK


def _raise_if_any(failures: dict[str, str], where: str) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main(None))
