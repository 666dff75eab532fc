"""`tf_sphereface-eval lfw`: Labeled Faces in the Wild."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import CommandError, existing_dir, existing_file
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_protocol,
    add_search_option,
    run_protocol,
)
from tf_sphereface.eval import lfw


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(protocols, "lfw", "LFW's View 2, or any list of pairs in its format", run)
    parser.add_argument(
        "--images",
        type=existing_dir,
        metavar="DIR",
        help="holds NAME/NAME_0001.jpg (not needed with a .npz of embeddings)",
    )
    parser.add_argument(
        "--pairs",
        type=existing_file,
        required=True,
        metavar="FILE",
        help="LFW's pairs.txt, or another list in its layout, under its own name "
        "(xqlfw_pairs.txt); with --train-pairs, pairsDevTest.txt",
    )
    parser.add_argument(
        "--train-pairs",
        type=existing_file,
        metavar="FILE",
        help="run View 1: these pairs (pairsDevTrain.txt) choose the threshold for --pairs",
    )
    parser.add_argument(
        "--category",
        choices=(*lfw.CATEGORIES, "none"),
        default="unrestricted-labeled",
        help="LFW's result category, by what the network was trained on; for LFW's own lists",
    )
    add_search_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.train_pairs is not None and args.write_scores is not None:
        raise CommandError(
            "--write-scores must be of folds, which scores and compare choose their thresholds on; "
            f"View 1 has one. Received: {args.write_scores} with --train-pairs"
        )
    options = {
        "landmarks": args.landmarks,
        "search": args.search,
        "category": None if args.category == "none" else args.category,
    }
    if args.train_pairs is None:
        return run_protocol(args, lfw.evaluate, args.images, args.pairs, **options)
    return run_protocol(
        args, lfw.evaluate_view1, args.images, args.train_pairs, args.pairs, **options
    )
