"""`tf_sphereface-align`: folders of aligned faces from folders of photographs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_sphereface.commands.align.record_photos import photos_of
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    add_json_option,
    command,
    console,
    existing_file,
    image_size,
    make_parser,
    note,
    output_file,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.input_options import add_detector_option, add_strict_option
from tf_sphereface.utils.messages import and_more, counted

if TYPE_CHECKING:
    from tf_sphereface.alignment import AlignResult

DESCRIPTION = """\
Find the faces in a folder of photographs and cut them out, aligned: the similarity transform that
brings eyes, nose and mouth corners closest to the template, bilinear, black outside the image. DST
gets the folders and names of SRC, so that lists such as LFW's pairs.txt stay valid. It also gets
landmarks.tsv, the points that were found, and report.tsv, every image without a face, with several,
too small or unreadable (of one image: IMAGE.landmarks.tsv and IMAGE.report.tsv). A stopped run goes
on where it was. The photographs of an MXNet RecordIO file (.rec) are called LABEL/RECORD.jpg.

Detection needs the package mtcnn: pip install "tf_sphereface[align]", or YuNet: --detector FILE.
With --landmarks FILE nothing is detected. That file has one line per image: its path inside SRC,
then x and y of the left eye, right eye, nose, left and right mouth corner (as seen in the image),
separated by tabs, commas or blanks.

exit code: 0 all aligned, 1 some images gave no face (they are listed, the others written),
2 bad input
"""
EXAMPLES = """\
  tf_sphereface-align photos/ faces/
  tf_sphereface-align holiday/ faces/ --select all --min-face 60 --size 112x112 --format png
  tf_sphereface-align clips/ faces/ --every 25
  tf_sphereface-align group.jpg faces/ --select all
  tf_sphereface-align lfw/ lfw_aligned/ --landmarks landmarks.tsv"""
SHOWN = 10  # failures that are printed; --json holds them all
LEAST = {"jobs": 1, "every": 1, "min_face": 20, "max_side": 100}
DETECTION = (
    *("select", "min_face", "max_side", "every", "detector"),
    *("report", "landmarks_out", "strict"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("align", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "src",
        type=_source,
        metavar="SRC",
        help="a folder of images, one image or video, or a .rec file",
    )
    parser.add_argument("dst", type=Path, metavar="DST", help="where to write the faces")
    parser.add_argument(
        "--landmarks", type=existing_file, metavar="FILE", help="given points; nothing is detected"
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
        "--overwrite", action="store_true", help="do again what is there, wherever it is from"
    )
    add_json_option(parser)
    group = parser.add_argument_group("detection")
    group.add_argument(
        "--select",
        choices=("center", "largest", "all"),
        help="the face nearest the centre (the default), the largest, or all, written as NAME_1, "
        "NAME_2, ... from the largest on",
    )
    group.add_argument(
        "--min-face", type=float, metavar="N", help="smaller faces are only reported (28 pixels)"
    )
    group.add_argument(
        "--max-side",
        type=int,
        metavar="N",
        help="detect in the image reduced to this many pixels (1600); crops are of the full image",
    )
    group.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="also take each N-th frame of the videos in SRC, as VIDEO_000000.jpg",
    )
    add_detector_option(group)
    add_strict_option(group, " (a video without --every, a folder that may not be read)")
    group.add_argument(
        "--report",
        type=output_file,
        metavar="FILE",
        help="problems (DST/report.tsv); .json: all images",
    )
    group.add_argument(
        "--landmarks-out", type=output_file, metavar="FILE", help="points found (DST/landmarks.tsv)"
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    _check_numbers(args)
    if args.landmarks is None:
        with photos_of(args.src, args.dst, strict=args.strict) as source:
            return _detect(args, source)
    given = [f"--{name.replace('_', '-')}" for name in DETECTION if getattr(args, name)]
    if given:
        raise CommandError(f"{', '.join(given)}: only without --landmarks, when faces are detected")
    with photos_of(args.src, args.dst) as source:
        if source.is_file():
            raise CommandError(f"with --landmarks SRC must be a folder. Received: {args.src}")
        return _by_landmarks(args, source)


def _source(text: str) -> Path:
    """An argparse type: a folder or a file that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"no such folder or file: {text}")
    return path


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuse what the library refuses too, by the option's name."""
    if not 1 <= args.quality <= 100:
        raise CommandError(f"--quality must be from 1 to 100. Received: {args.quality}")
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and not value >= least:
            unit = " pixels" if least > 1 else ""
            option = f"--{name.replace('_', '-')}"
            raise CommandError(f"{option} must be at least {least}{unit}. Received: {value}")
    if args.report is not None and args.report.suffix.lower() not in (".tsv", ".json"):
        raise CommandError(f"--report must end in .tsv or .json. Received: {args.report}")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that both ways of aligning have."""
    names = ("format", "quality", "jobs", "overwrite")
    return {"size": image_size(args.size), **{name: getattr(args, name) for name in names}}


def _detect(args: argparse.Namespace, source: Path) -> int:
    """Find the faces, write them, and say what was found."""
    from tf_sphereface.alignment import align_photos

    asked = {name: getattr(args, name) for name in DETECTION if getattr(args, name)}
    with progress_bar("aligning") as show:
        result = align_photos(source, args.dst, **_options(args), **asked, progress=show)
    images, problems = len(result.outcomes), result.counts()
    where = str(result.report) if result.report_written else "--json FILE"
    rate = images / max(result.seconds, 1e-9)
    _say_written(args, result)
    console.print(
        f"{images:,} images in {result.seconds:.1f} s, {rate:.1f} a second in {args.jobs} threads; "
        + ", ".join(f"{problem}: {count:,}" for problem, count in problems.items() if count)
        + (f"; {where}" if any(problems.values()) else "no problems"),
        highlight=False,
        soft_wrap=True,
    )
    if result.videos_left_out:
        console.print(
            f"{result.videos_left_out:,} videos were left out; --every N takes their frames",
            highlight=False,
        )
    if result.left_behind:
        note(
            f"{args.dst} keeps {counted(len(result.left_behind), 'face')} of files that {args.src} "
            f"has no more: {and_more(list(result.left_behind), 3)}",
            console,
        )
    if result.passed_over.summary():
        note(result.passed_over.summary(), console)
    write_json_option(
        args.json,
        {
            "src": str(args.src),
            "dst": str(args.dst),
            "size": list(image_size(args.size)),
            "select": asked.get("select", "center"),
            "min_face": asked.get("min_face", 28.0),
            "images": images,
            "written": result.written,
            "already_there": result.kept,
            "problems": problems,
            "passed_over": result.passed_over.counts,
            "left_behind": list(result.left_behind),
            "failed": {o.found.name: f"{o.problem} {o.detail}".strip() for o in result.failed},
            "seconds": round(result.seconds, 3),
            "images_per_second": round(rate, 2),
            "landmarks": str(result.landmarks),
            "report": str(result.report),
        },
    )
    _raise_if_any(
        {o.found.name: f"{o.problem}{': ' if o.detail else ''}{o.detail}" for o in result.failed},
        f"{where} lists them all",
    )
    return EXIT_OK


def _by_landmarks(args: argparse.Namespace, source: Path) -> int:
    """Write the faces whose points are given."""
    from tf_sphereface.alignment import align_by_landmarks

    with progress_bar("aligning") as show:
        result = align_by_landmarks(
            source, args.dst, args.landmarks, **_options(args), progress=show
        )
    failures = {outcome.found.name: outcome.detail for outcome in result.failed}
    _say_written(args, result)
    write_json_option(
        args.json,
        {
            "src": str(args.src),
            "dst": str(args.dst),
            "size": list(image_size(args.size)),
            "written": result.written,
            "already_there": result.kept,
            "failed": failures,
        },
    )
    _raise_if_any(failures, "--json FILE lists them all")
    return EXIT_OK


def _say_written(args: argparse.Namespace, result: AlignResult) -> None:
    """Print how many faces there are now in DST, and how many could not be had."""
    console.print(
        f"{args.dst}: {result.written:,} faces of {args.size} written, {result.kept:,} were "
        f"there, {len(result.failed):,} failed",
        highlight=False,
        soft_wrap=True,
    )


def _raise_if_any(failures: dict[str, str], where: str) -> None:
    """Raise CheckFailed with the first failures, and where the others are."""
    if failures:
        lines = [f"{name}: {why}" for name, why in failures.items()]
        listed = and_more(lines, SHOWN, separator="\n  ", where=where)
        raise CheckFailed(f"{len(failures):,} images could not be aligned:\n  {listed}")


if __name__ == "__main__":
    raise SystemExit(main(None))
