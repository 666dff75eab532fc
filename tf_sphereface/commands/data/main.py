"""`tf_sphereface-data`: pack faces, read and write .rec files, check both, audit a set."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface import data
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    HelpFormatter,
    add_json_option,
    command,
    image_size,
    make_parser,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.data import audit, records
from tf_sphereface.commands.data.lists import listed, say
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.utils.people_names import alike_names

DESCRIPTION = """\
Pack a folder of identity folders into a few large TFRecord files with an index, for data sets of
millions of faces: training then reads any image in one access, in a random order that is exact.
Public sets that come as MXNet RecordIO (train.rec) are read as they are, without MXNet.

  pack SRC OUT      write OUT; stopped at any moment, the same command goes on where it was
  check SET         read every record, compare it with its checksum or decode it, list the damaged
  info SET          say what is in a set
  extract REC DIR   write the images of a .rec file into a folder per person, as they are
  to-rec SRC OUT    write a folder or a pack as .rec and .idx, in the form that insightface reads
  views SRC OUT     write faces turned, moved and blended, for a student to learn from a teacher

and find what a training set has in common with a test set (docs/guides/audit.md):

  audit TRAIN TEST --model M
  audit TRAIN --labels MODEL   list the images whose label is in doubt; --labels RUN: of a run

exit code: 0 all well, 1 check found damage (or audit --strict anything), 2 bad input or a full
disk"""
EXAMPLES = """\
  tf_sphereface-data pack faces/ packed/
  tf_sphereface-data pack photos/ packed/ --resize 112x96 --shards 64
  tf_sphereface-data check packed/ --json damage.json
  tf_sphereface-data info ms1m/train.rec
  tf_sphereface-data extract ms1m/train.rec faces/
  tf_sphereface-data to-rec faces/ ours/
  tf_sphereface-data views faces/ views/ --count 8
  tf_sphereface-train --data packed/ --preset small --out runs/first
  tf_sphereface-data audit faces/ lfw/ --model embedder.keras --test-landmarks lfw.tsv --out audit/
  tf_sphereface-data audit faces/ --labels embedder.keras --out labels/
  tf_sphereface-train --data faces/ --exclude labels/exclude.txt --out runs/clean"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("data", DESCRIPTION, EXAMPLES)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="pack|check|info|extract|to-rec|views|audit"
    )

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> Any:
        sub = commands.add_parser(name, help=help, description=help, formatter_class=HelpFormatter)
        sub.set_defaults(run=run)
        return sub

    pack = add("pack", "write the faces of a folder into TFRecord shards", run_pack)
    pack.add_argument(
        "source", type=existing_path, metavar="SRC", help="a folder per person, or a .rec file"
    )
    pack.add_argument(
        "out", type=Path, metavar="OUT", help="where to write; empty, missing, or a pack of SRC"
    )
    count = pack.add_mutually_exclusive_group()
    count.add_argument("--shards", type=int, metavar="N", help="number of files")
    count.add_argument(
        "--shard-size", type=float, default=256.0, metavar="MB", help="of images in a file"
    )
    pack.add_argument("--resize", type=image_size, metavar="HxW", help="encode other sizes again")
    pack.add_argument("--encoding", choices=("jpg", "png"), default="jpg", help="of resized images")
    pack.add_argument("--seed", type=int, default=0, metavar="S", help="of the order on disk")
    add_strict_option(pack, ", and at a damaged one")
    pack.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads")
    check = add("check", "read a whole pack or .rec file, and list what is damaged", run_check)
    info = add("info", "say what is in a pack, a .rec file or a folder of faces", run_info)
    for sub in (check, info):
        sub.add_argument("out", type=existing_path, metavar="SET", help="a pack, or a .rec file")
    extract = add("extract", "write a .rec file as a folder per person", records.run_extract)
    records.add_extract_arguments(extract)
    records.add_write_arguments(add("to-rec", "write faces as a .rec file", records.run_write))
    views = add("views", "write augmented faces for a teacher to embed", run_views)
    views.add_argument("source", type=existing_path, metavar="SRC", help="faces, labelled or not")
    views.add_argument("out", type=Path, metavar="OUT", help="where to write; empty or missing")
    views.add_argument("--count", type=int, default=8, metavar="N", help="views of each face")
    views.add_argument(
        "--size", type=image_size, default="112x96", metavar="HxW", help="of the faces"
    )
    views.add_argument("--resize", action="store_true", help="average other sizes down to it")
    views.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws")
    add_strict_option(views, ", and at a damaged one")
    audit.add_arguments(
        add("audit", "find a test set in a training set, or labels in doubt", audit.run)
    )
    for sub in commands.choices.values():
        add_json_option(sub)
    return parser


def existing_path(text: str) -> Path:
    """An argparse type: a folder or a file that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"no such folder or file: {text}")
    return path


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    return int(args.run(args))


def run_pack(args: argparse.Namespace) -> int:
    """Pack a folder, or a .rec file."""
    if not args.source.is_dir() and not data.is_rec(args.source):
        raise CommandError(f"a folder or a RecordIO file is expected. Received: {args.source}")
    with progress_bar("packing") as show:
        result = data.pack_folder(
            args.source,
            args.out,
            shards=args.shards,
            shard_size=args.shard_size,
            resize=args.resize,
            encoding=args.encoding,
            seed=args.seed,
            strict=args.strict,
            progress=show,
            workers=args.jobs,
        )
    say(
        f"{args.out}: {result.images:,} faces of {result.classes:,} people in {result.shards:,} "
        f"shards, {result.bytes / 1e6:,.1f} MB; shards that were there: {result.kept_shards:,}; "
        f"damaged files left out: {len(result.skipped):,}"
        + listed(result.skipped, "info OUT --json FILE")
    )
    lost = records.damage_left_out(args.source)
    if lost:
        say(f"what is wrong with {args.source}:" + listed(lost, "check --json FILE"))
    for text in (
        result.passed_over.summary(),
        alike_names(data.open_pack(args.out).names, str(args.source)),
    ):
        if text:
            say(text)
    counts = result.passed_over.counts
    values = {**dataclasses.asdict(result), "path": str(args.out), "passed_over": counts}
    write_json_option(args.json, values)
    return EXIT_OK


def run_views(args: argparse.Namespace) -> int:
    """Write views of faces."""
    source = data.FaceSource(
        args.source,
        image_size=args.size,
        resize=args.resize,
        strict=args.strict,
        cache="none",
        unlabelled=True,
    )
    with progress_bar("reading") as show:
        source.load(progress=show)
    with progress_bar("writing views") as show:
        written = data.write_views(
            source, args.out, count=args.count, seed=args.seed, progress=show
        )
    left_out = source.report.reasons
    say(
        f"{args.out}: {written:,} pictures, {args.count} of each of {len(source):,} faces; damaged "
        f"files left out: {len(left_out):,}"
        + listed({str(path): why for path, why in left_out.items()})
    )
    write_json_option(args.json, {"path": str(args.out), "faces": len(source), "images": written})
    return EXIT_OK


def run_check(args: argparse.Namespace) -> int:
    """Check a pack, or a .rec file."""
    is_rec = not data.is_pack(args.out) and data.is_rec(args.out)
    advice, holds = (
        "To mend it, pack the same folder again: whole shards are kept",
        "checksum holds",
    )
    if is_rec:
        advice, holds = "Training leaves these out, or stops with --strict", "image can be decoded"
    with progress_bar("checking") as show:
        result: Any = (data.check_rec if is_rec else data.check_pack)(args.out, progress=show)
    write_json_option(args.json, {"ok": result.ok, **dataclasses.asdict(result)})
    if not result.ok:
        raise CheckFailed(
            f"{args.out}: damaged files: {len(result.files):,}; damaged records: "
            f"{len(result.records):,} of {result.images:,}"
            + listed(result.files)
            + listed(result.records)
            + f"\n{advice}"
        )
    notes = result.notes if is_rec else []
    say("\n".join([f"{args.out}: {result.images:,} records, every {holds}", *notes]))
    return EXIT_OK


def run_info(args: argparse.Namespace) -> int:
    """Say what is in a pack, a .rec file or a folder."""
    describe = _describe_pack
    if not data.is_pack(args.out):
        describe = records.describe if data.is_rec(args.out) else _describe_folder
    text, info = describe(args.out)
    say(text)
    write_json_option(args.json, info)
    return EXIT_OK


def _describe_folder(path: Path) -> tuple[str, dict[str, Any]]:
    """Return what is in a folder of identity folders; no image is opened."""
    if not path.is_dir():
        raise CommandError(
            f"{path} must be a packed folder, a RecordIO file (.rec) or a folder per person"
        )
    index = data.scan_folder(path)
    counts = np.bincount(index.labels, minlength=index.num_classes)
    info = {
        "path": str(path),
        "kind": "folder",
        "people": index.num_classes,
        "faces": len(index),
        "faces_per_person": records.least_median_most(counts),
    }
    info["passed_over"] = index.passed_over.counts
    text = (
        f"{path}: a folder, {len(index):,} image files of {index.num_classes:,} people, from "
        f"{counts.min():,} to {counts.max():,} each, {np.median(counts):g} in the median"
    )
    alike = alike_names(index.names, str(path))
    return "\n".join(filter(None, [text, index.passed_over.summary(), alike])), info


def _describe_pack(path: Path) -> tuple[str, dict[str, Any]]:
    """Return what is in a pack."""
    pack = data.open_pack(path)
    counts = np.diff(pack.ends, prepend=0)
    shards = pack.manifest["shards"]
    size = pack.image_size
    info = {
        "path": str(path),
        "kind": "pack",
        "people": pack.num_classes,
        "faces": len(pack),
        "version": pack.manifest["version"],
        "images": len(pack),
        "classes": pack.num_classes,
        "images_per_class": records.least_median_most(counts),
        "image_size": size and list(size),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "plan": pack.manifest["plan"],
        "skipped": pack.manifest["skipped"],
    }
    text = (
        f"{path}: {len(pack):,} faces of {pack.num_classes:,} people, from {counts.min():,} to "
        f"{counts.max():,} each, {np.median(counts):g} in the median\n"
        f"size: {f'{size[0]}x{size[1]}' if size else 'several'}; {len(shards):,} shards, "
        f"{info['bytes'] / 1e6:,.1f} MB; format version {info['version']}\n"
        f"damaged files left out when it was packed: {len(info['skipped']):,}"
        + listed({entry["file"]: entry["reason"] for entry in info["skipped"]})
    )
    return text, info


if __name__ == "__main__":
    raise SystemExit(main())
