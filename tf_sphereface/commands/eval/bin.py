"""`tf_sphereface-eval bin` and `make-bin`: insightface's `.bin` sets."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import console, existing_dir, existing_file, output_file
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_protocol,
    add_subcommand,
    run_protocol,
)
from tf_sphereface.eval import bins
from tf_sphereface.eval.pairs import read_pairs


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommands."""
    parser = add_protocol(
        protocols, "bin", "a .bin set of insightface's: lfw, cfp_fp, agedb_30 ...", run, False
    )
    parser.add_argument("set", type=existing_file, metavar="FILE", help="the .bin file")

    summary = "make a .bin set of a list of pairs in LFW's format"
    writer = add_subcommand(protocols, "make-bin", summary, make)
    writer.add_argument("out", type=output_file, metavar="FILE", help="the .bin file to write")
    writer.add_argument("--images", type=existing_dir, required=True, metavar="DIR")
    writer.add_argument("--pairs", type=existing_file, required=True, metavar="FILE")
    writer.add_argument(
        "--landmarks", type=existing_file, metavar="FILE", help="align the images by them"
    )
    writer.add_argument(
        "--size", choices=("112x112", "112x96"), default="112x112", help="height x width of faces"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate a set."""
    return run_protocol(args, bins.evaluate, args.set)


def make(args: argparse.Namespace) -> int:
    """Write a set."""
    pairs = read_pairs(args.pairs)
    height, width = (int(n) for n in args.size.split("x"))
    count = bins.write_bin_of_pairs(args.out, args.images, pairs, args.landmarks, (height, width))
    console.print(
        f"wrote {args.out}: {len(pairs):,} pairs of {count:,} images. A .bin set's folds are "
        f"{bins.FOLDS} equal parts in this order.",
        highlight=False,
    )
    return 0
