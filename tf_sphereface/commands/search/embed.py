"""`tf_sphereface-search embed`: the faces of pictures as vectors, in a file."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    add_json_option,
    console,
    existing_file,
    note,
    output_file,
    positive_int,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.input_options import (
    add_detector_option,
    add_input_options,
    input_facts,
)
from tf_sphereface.utils.messages import and_more, counted

SUMMARY = "embed every face of a folder of pictures, a pack or a .rec file"
DESCRIPTION = """\
Find, align and embed every face of SRC: photographs, aligned faces, a packed folder, or a .rec
file. The table has path, box, five points, norm, detector score and vector of each face. Pictures
of the model's size are taken as aligned faces. A stopped run goes on where it was.

An .npz is read with numpy.load (arrays paths, embeddings, ...); past what memory holds write
.parquet: pip install "tf_sphereface[search]". For several machines or a job array give each of them
a share, and join the tables: tf_sphereface-search join.

exit code: 0 all pictures were looked at (those without a face are named), 1 some could not be read
(they are named, the others are in the table), 2 bad input"""
SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "model", type=existing_file, metavar="MODEL", help="a .keras, .tflite or .onnx file"
    )
    parser.add_argument(
        "src", type=Path, metavar="SRC", help="a folder, a picture, a pack or a .rec file"
    )
    parser.add_argument(
        "--out", type=table_file, required=True, metavar="FILE", help="the table, .npz or .parquet"
    )
    add_face_options(parser)
    parser.add_argument(
        "--share",
        type=_share,
        default="1/1",
        metavar="I/N",
        help="do share I of N of the pictures, counted from 1",
    )
    add_input_options(parser)
    add_json_option(parser)


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how faces are found and embedded."""
    parser.add_argument(
        "--align",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: pictures of another size than the model's; always: those too; never: an error",
    )
    add_detector_option(parser)
    parser.add_argument(
        "--min-face", type=float, default=28.0, metavar="N", help="smaller faces are left out"
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=64, metavar="N", help="faces at once"
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="threads"
    )


def table_file(text: str) -> Path:
    """An argparse type: a table of faces to write."""
    path = output_file(text)
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .npz or .parquet: {text}")
    return path


def _share(text: str) -> tuple[int, int]:
    """An argparse type: `2/8` as (2, 8)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N, such as 1/8 to 8/8: {text}")
    return int(number), int(count)


def run(args: argparse.Namespace) -> int:
    """Embed; return the exit code."""
    from tf_sphereface.search.embedding_job import embed_faces

    begin = time.perf_counter()
    with progress_bar("embedding") as show:
        result = embed_faces(
            args.model,
            args.src,
            args.out,
            alignment=args.align,
            detector=args.detector,
            min_face=args.min_face,
            batch_size=args.batch_size,
            jobs=args.jobs,
            share=args.share,
            facts=input_facts(args),
            progress=show,
        )
    seconds = time.perf_counter() - begin
    without = len(result.failed) - len(result.unread)
    again = f", {result.reused:,} of them done before" if result.reused else ""
    console.print(
        f"{args.out}: {counted(result.faces, 'face')} of "
        f"{counted(result.pictures, 'picture')}{again}; "
        f"{without:,} without a face, {len(result.unread):,} not read",
        soft_wrap=True,
    )
    if result.images.passed_over.summary():
        note(result.images.passed_over.summary(), console)
    write_json_option(
        args.json,
        {
            "out": str(args.out),
            "faces": result.faces,
            "pictures": result.pictures,
            "done_before": result.reused,
            "failed": result.failed,
            "passed_over": result.images.passed_over.counts,
            "seconds": round(seconds, 3),
        },
    )
    faceless = [name for name in result.failed if name not in result.unread]
    if faceless:
        note(f"no face was found in {and_more(faceless, SHOWN)}", console)
    if result.unread:
        lines = [f"{name}: {why}" for name, why in result.unread.items()]
        listed = and_more(lines, SHOWN, separator="\n  ", where="--json FILE lists them all")
        raise CheckFailed(f"{counted(len(lines), 'picture')} could not be used:\n  {listed}")
    return EXIT_OK
