"""`tf_sphereface-data extract` and `to-rec`, and what `info` and `check` say of a .rec file."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface import data
from tf_sphereface.commands.console import EXIT_OK, CommandError, progress_bar, write_json_option
from tf_sphereface.commands.data.lists import listed, say
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.data.recordio.checking import notes_of
from tf_sphereface.data.recordio.index_file import index_path


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `extract`."""
    parser.add_argument("source", type=Path, metavar="FILE.rec", help="or a folder with train.rec")
    parser.add_argument("out", type=Path, metavar="DIR", help="where to write; empty or missing")
    parser.add_argument("--strict", action="store_true", help="stop at a damaged record")


def run_extract(args: argparse.Namespace) -> int:
    """Write the images of a .rec file into a folder per person."""
    if not data.is_rec(args.source):
        raise CommandError(f"a RecordIO file (.rec) is expected. Received: {args.source}")
    with progress_bar("extracting") as show:
        result = data.extract_rec(args.source, args.out, strict=args.strict, progress=show)
    say(
        f"{args.out}: {result.images:,} faces of {result.people:,} people; images that were there: "
        f"{result.kept:,}; damaged records left out: {len(result.skipped):,}"
        + listed(result.skipped)
    )
    write_json_option(args.json, {**dataclasses.asdict(result), "path": str(args.out)})
    return EXIT_OK


def add_write_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `to-rec`."""
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="a folder per person, a pack, or a .rec file"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="a new file, OUT.rec, or a folder for train.rec"
    )
    add_strict_option(parser, ", and at a damaged one")


def run_write(args: argparse.Namespace) -> int:
    """Write faces as a .rec file."""
    if not args.source.exists():
        raise CommandError(f"no such folder or file: {args.source}")
    with progress_bar("writing") as show:
        result = data.write_rec(args.source, args.out, strict=args.strict, progress=show)
    say(
        f"{result.path}: {result.images:,} faces of {result.people:,} people, "
        f"{result.bytes / 1e6:,.1f} MB; damaged images left out: {len(result.skipped):,}"
        + listed(result.skipped)
    )
    write_json_option(args.json, {**dataclasses.asdict(result), "path": str(result.path)})
    return EXIT_OK


def describe(path: Path) -> tuple[str, dict[str, Any]]:
    """Return what is in a .rec file, as text and as JSON takes it; images are not decoded."""
    report = data.SkipReport()
    with progress_bar("reading headers") as show:
        records = data.open_rec(path, errors="report", report=report, progress=show)
    if records.scan.sizes is not None:  # known since all images were decoded
        records = data.open_rec(path, errors="skip")
    counts = records.counts()
    scan, size = records.scan, records.image_size
    index = index_path(records.path)
    notes = notes_of(records)
    info = {
        "path": str(path),
        "kind": "recordio",
        "file": str(records.path),
        "people": records.num_classes,
        "faces": len(records),
        "faces_per_person": least_median_most(counts),
        "records": scan.records,
        "bytes": scan.size,
        "image_size": size and list(size),
        "image_sizes": scan.sizes,
        "index": str(index) if index.is_file() else None,
        "header": scan.header,
        "labels": {"least": int(scan.people[0]), "most": int(scan.people[-1])},
        "notes": notes,
        "damaged": {str(name): why for name, why in report.reasons.items()},
    }
    shown = "not known before `check` or training has decoded the images"
    if scan.sizes is not None:
        shown = ", ".join(f"{count:,} of {name}" for name, count in scan.sizes.items())
    text = (
        f"{records.path}: {len(records):,} faces of {records.num_classes:,} people, from "
        f"{counts.min():,} to {counts.max():,} each, {np.median(counts):g} in the median\n"
        f"RecordIO, {scan.records:,} records, {scan.size / 1e6:,.1f} MB, "
        f"{'with' if scan.header else 'without'} a record that counts, "
        f"{'with' if index.is_file() else 'without'} {index.name}\n"
        f"size: {shown}\n"
        f"damaged: {report.count:,}" + listed(_texts(report.reasons))
    )
    return "\n".join([text, *notes]), info


def damage_left_out(path: Path) -> dict[str, str]:
    """Return the records of a .rec file that are cut off or lost, and why; none of a folder."""
    if not data.is_rec(path):
        return {}
    report = data.SkipReport()
    data.open_rec(path, errors="report", report=report)
    return _texts(report.reasons)


def least_median_most(counts: np.ndarray) -> dict[str, float]:
    """Return how many images people have."""
    return {
        "least": int(counts.min()),
        "median": float(np.median(counts)),
        "most": int(counts.max()),
    }


def _texts(reasons: Mapping[Path, str]) -> dict[str, str]:
    return {str(path): why for path, why in reasons.items()}
