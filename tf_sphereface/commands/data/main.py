"""`tf_sphereface-data`: pack faces into shards, check a pack, audit a training set."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface import data
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    HelpFormatter,
    add_json_option,
    command,
    console,
    existing_dir,
    image_size,
    make_parser,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.data import audit
from tf_sphereface.utils.messages import and_more

DESCRIPTION = """\
Pack a folder of identity folders into a few large TFRecord files with an index, for data sets of
millions of faces: training then reads any image in one access, in a random order that is exact.

  pack DIR OUT   write OUT; stopped at any moment, the same command goes on where it was
  check OUT      compare every file and every record with its checksum, and list the damaged ones
  info OUT       say what is in OUT

and find what a training set has in common with a test set (docs/audit.md):

  audit TRAIN TEST --model M

exit code: 0 all well, 1 check found damage (or audit --strict an overlap), 2 bad input or a full
disk"""
EXAMPLES = """\
  tf_sphereface-data pack faces/ packed/
  tf_sphereface-data pack photos/ packed/ --resize 112x96 --shards 64
  tf_sphereface-data check packed/ --json damage.json
  tf_sphereface-train --data packed/ --preset small --out runs/first
  tf_sphereface-data audit faces/ lfw/ --model embedder.keras --test-landmarks lfw.tsv --out audit/
  tf_sphereface-train --data faces/ --exclude audit/exclude.txt --out runs/clean"""
SHOWN = 10  # damaged files that are printed; --json holds them all


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("data", DESCRIPTION, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack|check|info|audit")

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> Any:
        sub = commands.add_parser(name, help=help, description=help, formatter_class=HelpFormatter)
        sub.set_defaults(run=run)
        return sub

    pack = add("pack", "write the faces of a folder into TFRecord shards", run_pack)
    pack.add_argument("source", type=existing_dir, metavar="DIR", help="a folder per person")
    pack.add_argument("out", type=Path, metavar="OUT", help="where to write; empty or missing")
    count = pack.add_mutually_exclusive_group()
    count.add_argument("--shards", type=int, metavar="N", help="number of files")
    count.add_argument(
        "--shard-size", type=float, default=256.0, metavar="MB", help="of images in a file"
    )
    pack.add_argument("--resize", type=image_size, metavar="HxW", help="encode other sizes again")
    pack.add_argument("--encoding", choices=("jpg", "png"), default="jpg", help="of resized images")
    pack.add_argument("--seed", type=int, default=0, metavar="S", help="of the order on disk")
    pack.add_argument(
        "--strict",
        action="store_true",
        help="stop at a damaged file, or where images are passed over",
    )
    pack.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads")
    check = add("check", "compare a pack with its checksums, and list what is damaged", run_check)
    info = add("info", "say what is in a pack", run_info)
    for sub in (check, info):
        sub.add_argument("out", type=existing_dir, metavar="OUT", help="a packed folder")
    audit.add_arguments(
        add("audit", "find people and images of a test set in a training set", audit.run)
    )
    for sub in commands.choices.values():
        add_json_option(sub)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    return int(args.run(args))


def run_pack(args: argparse.Namespace) -> int:
    """Pack a folder."""
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
    _print(
        f"{args.out}: {result.images:,} faces of {result.classes:,} people in {result.shards:,} "
        f"shards, {result.bytes / 1e6:,.1f} MB; shards that were there: {result.kept_shards:,}; "
        f"damaged files left out: {len(result.skipped):,}"
        + _listed(result.skipped, "info OUT --json FILE")
    )
    if result.passed_over.summary():
        _print(result.passed_over.summary())
    counts = result.passed_over.counts
    values = {**dataclasses.asdict(result), "path": str(args.out), "passed_over": counts}
    write_json_option(args.json, values)
    return EXIT_OK


def run_check(args: argparse.Namespace) -> int:
    """Check a pack."""
    with progress_bar("checking") as show:
        result = data.check_pack(args.out, progress=show)
    write_json_option(args.json, {"ok": result.ok, **dataclasses.asdict(result)})
    if not result.ok:
        raise CheckFailed(
            f"{args.out}: damaged files: {len(result.files):,}; damaged records: "
            f"{len(result.records):,} of {result.images:,}"
            + _listed(result.files)
            + _listed(result.records)
            + "\nTo mend it, pack the same folder again: whole shards are kept"
        )
    _print(f"{args.out}: {result.images:,} records, every checksum holds")
    return EXIT_OK


def run_info(args: argparse.Namespace) -> int:
    """Say what is in a pack."""
    pack = data.open_pack(args.out)
    counts = np.diff(pack.ends, prepend=0)
    shards = pack.manifest["shards"]
    size = pack.image_size
    info = {
        "path": str(args.out),
        "version": pack.manifest["version"],
        "images": len(pack),
        "classes": pack.num_classes,
        "images_per_class": {
            "least": int(counts.min()),
            "median": float(np.median(counts)),
            "most": int(counts.max()),
        },
        "image_size": size and list(size),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "plan": pack.manifest["plan"],
        "skipped": pack.manifest["skipped"],
    }
    _print(
        f"{args.out}: {len(pack):,} faces of {pack.num_classes:,} people, from {counts.min():,} to "
        f"{counts.max():,} each, {np.median(counts):g} in the median\n"
        f"size: {f'{size[0]}x{size[1]}' if size else 'several'}; {len(shards):,} shards, "
        f"{info['bytes'] / 1e6:,.1f} MB; format version {info['version']}\n"
        f"damaged files left out when it was packed: {len(info['skipped']):,}"
        + _listed({entry["file"]: entry["reason"] for entry in info["skipped"]})
    )
    write_json_option(args.json, info)
    return EXIT_OK


def _listed(reasons: Mapping[str, str], command: str = "--json FILE") -> str:
    """Return a line for each of the first files, and how many there are beyond."""
    lines = [f"{name}: {why}" for name, why in reasons.items()]
    where = f"{command} lists them all"
    return "\n  " + and_more(lines, SHOWN, separator="\n  ", where=where) if lines else ""


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
