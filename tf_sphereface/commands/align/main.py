"""`tf_sphereface-align`: a folder of photographs becomes a folder of aligned faces."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tf_sphereface.commands.align.by_landmarks import by_landmarks, raise_if_any, say_written
from tf_sphereface.commands.console import (
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    existing_file,
    make_parser,
    output_file,
    write_json_option,
)

DESCRIPTION = """\
Find the faces in a folder of photographs and cut them out, aligned: the similarity transform that
brings eyes, nose and mouth corners closest to the template, bilinear, black outside the image. DST
gets the folders and names of SRC, so that lists such as LFW's pairs.txt stay valid. It also gets
landmarks.tsv, the points that were found, and report.tsv, every image without a face, with several,
too small or unreadable (of one image: IMAGE.landmarks.tsv and IMAGE.report.tsv). A stopped run goes
on where it was.

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
  tf_sphereface-align group.jpg faces/ --select all
  tf_sphereface-align lfw/ lfw_aligned/ --landmarks landmarks.tsv"""
DETECTION = ("select", "min_face", "max_side", "every", "report", "landmarks_out")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("align", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "src", type=_source, metavar="SRC", help="a folder of images, or one image or video"
    )
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
        "--overwrite", action="store_true", help="do again what is there, wherever it is from"
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
        "--report", type=output_file, metavar="FILE", help="DST/report.tsv; a .json has every image"
    )
    group.add_argument(
        "--landmarks-out",
        type=output_file,
        metavar="FILE",
        help="the points found: DST/landmarks.tsv",
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
    single = args.src.is_file()
    folder = args.src.parent if single else args.src
    if args.dst.resolve() == folder.resolve():
        raise CommandError("DST must be another folder than SRC: aligning would replace the images")

    from tf_sphereface.alignment.images import PHOTO_SUFFIXES
    from tf_sphereface.alignment.videos import VIDEO_SUFFIXES
    from tf_sphereface.utils.optional import require

    is_image = args.dst.suffix.lower() in (*PHOTO_SUFFIXES, *VIDEO_SUFFIXES)
    if args.dst.is_file() or (is_image and not args.dst.is_dir()):
        raise CommandError(
            "DST must be a folder, where the faces get the names of their images. "
            f"Received: {args.dst}"
        )

    require("skimage.transform", extra="align")  # fail once here, not for every image
    if args.landmarks is None:
        return _detect(args, folder, only=args.src.name if single else None)
    given = [f"--{name.replace('_', '-')}" for name in DETECTION if getattr(args, name) is not None]
    if given:
        raise CommandError(f"{', '.join(given)}: only without --landmarks, when faces are detected")
    if single:
        raise CommandError(f"with --landmarks SRC must be a folder. Received: {args.src}")
    return by_landmarks(args)


def _source(text: str) -> Path:
    """An argparse type: a folder or a file that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"no such folder or file: {text}")
    return path


def _detect(args: argparse.Namespace, folder: Path, only: str | None) -> int:
    """Find the faces, write them, and say what was found."""
    from tf_sphereface.alignment import outcomes as lists
    from tf_sphereface.alignment.detector import FaceDetector
    from tf_sphereface.alignment.photo_aligner import Aligner, Settings, single_threaded_operations

    min_face = 28.0 if args.min_face is None else args.min_face
    if not min_face >= 20:
        raise CommandError(f"--min-face must be at least 20 pixels. Received: {args.min_face}")
    if args.every is not None and args.every < 1:
        raise CommandError(f"--every must be at least 1. Received: {args.every}")
    if args.max_side is not None and args.max_side < 100:
        raise CommandError(f"--max-side must be at least 100 pixels. Received: {args.max_side}")
    prefix = f"{only}." if only else ""  # other files of DST keep theirs
    report = args.report or args.dst / f"{prefix}report.tsv"
    if report.suffix.lower() not in (".tsv", ".json"):
        raise CommandError(f"--report must end in .tsv or .json. Received: {report}")
    height, width = (int(side) for side in args.size.split("x"))
    settings = Settings(
        src=folder,
        only=only,
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

    landmarks = args.landmarks_out or args.dst / f"{prefix}landmarks.tsv"
    # Lists that belong to the faces of another file of this name stay as they are.
    refused = only is not None and all(outcome.problem == lists.REFUSED for outcome in outcomes)
    if args.landmarks_out or not refused:
        lists.write_landmarks(landmarks, outcomes)
    if args.report or not refused:
        lists.write_report(report, outcomes)
    where = str(report) if args.report or not refused else "--json FILE"
    number = lists.counts(outcomes)
    failed = [outcome for outcome in outcomes if outcome.problem in lists.FAILURES]
    written = sum(outcome.written for outcome in outcomes)
    kept = sum(outcome.kept for outcome in outcomes)
    rate = len(outcomes) / max(seconds, 1e-9)
    say_written(args, written, kept, len(failed))
    console.print(
        f"{len(outcomes):,} images in {seconds:.1f} s, {rate:.1f} a second in {args.jobs} threads; "
        + ", ".join(f"{problem}: {count:,}" for problem, count in number.items() if count)
        + (f"; {where}" if any(number.values()) else "no problems"),
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
    raise_if_any(
        {o.found.name: f"{o.problem}{': ' if o.detail else ''}{o.detail}" for o in failed},
        f"{where} lists them all",
    )
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(None))
