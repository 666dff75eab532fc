"""`tf_sphereface-eval folder`: random pairs of a folder of identity folders."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import existing_dir
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_protocol,
    add_search_option,
    run_protocol,
)
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.eval import folder


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(protocols, "folder", "random pairs of a folder of identity folders", run)
    parser.add_argument(
        "root", type=existing_dir, metavar="DIR", help="holds one folder per person"
    )
    parser.add_argument(
        "--pairs-per-fold", type=int, default=300, metavar="N", help="of each class, at most"
    )
    parser.add_argument("--folds", type=int, default=10, metavar="K", help="number of folds")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pairs")
    add_search_option(parser)
    add_strict_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return run_protocol(
        args,
        folder.evaluate,
        args.root,
        pairs_per_fold=args.pairs_per_fold,
        folds=args.folds,
        seed=args.seed,
        landmarks=args.landmarks,
        search=args.search,
        strict=args.strict,
    )
