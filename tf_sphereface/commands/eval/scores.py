"""`tf_sphereface-eval scores` and `compare`: figures of scores that were computed before."""

from __future__ import annotations

import argparse
import dataclasses

from rich.table import Table

from tf_sphereface.commands.console import (
    CommandError,
    add_json_option,
    console,
    existing_file,
    write_json_option,
)
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_result_options,
    add_search_option,
    add_subcommand,
    check_groups_options,
    finish,
)
from tf_sphereface.eval import scores, verification
from tf_sphereface.eval.pairs import Pairs, read_pairs
from tf_sphereface.eval.ytf import read_splits


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommands."""
    summary = "a file of scores: one line per pair, with its label and fold, or in a list's order"
    parser = add_subcommand(protocols, "scores", summary, run)
    parser.add_argument(
        "scores",
        type=existing_file,
        metavar="FILE",
        help="lines of: score, label (0 or 1), fold, and perhaps what is compared; without folds "
        "there are rates and no accuracy; with --pairs or --splits, lines of the score alone",
    )
    _add_lists(parser)
    add_search_option(parser)
    add_result_options(parser)

    summary = "two files of scores of the same pairs: is the difference more than chance?"
    parser = add_subcommand(protocols, "compare", summary, run_comparison)
    for name in ("first", "second"):
        parser.add_argument(name, type=existing_file, metavar=name.upper(), help="as for scores")
    _add_lists(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate a file of scores."""
    check_groups_options(args)
    return finish(args, scores.evaluate(args.scores, _pairs(args), search=args.search))


def run_comparison(args: argparse.Namespace) -> int:
    """Compare two files of scores."""
    pairs = _pairs(args)
    first, second = (scores.evaluate(path, pairs) for path in (args.first, args.second))
    names = [(result.pairs.left, result.pairs.right) for result in (first, second)]
    if pairs is None and names[0] != names[1]:
        raise CommandError(f"{args.first} and {args.second} name other pairs")
    found = verification.compare(first.headline, second.headline)
    table = Table(title="accuracy, first and second, and their difference", title_justify="left")
    for name in ("first, %", "second, %", "difference, points", "won / lost", "both / neither"):
        table.add_column(name, justify="right")
    table.add_column("McNemar's exact p", justify="right")
    table.add_row(
        *(
            f"{100 * result.headline.accuracy:.2f} ± {100 * result.headline.std_error:.2f}"
            for result in (first, second)
        ),
        f"{100 * found.difference:+.2f} ± {100 * found.std_error:.2f}",
        f"{found.only_first:,} / {found.only_second:,}",
        f"{found.both:,} / {found.neither:,}",
        f"{found.p_value:.2g}",
    )
    try:
        values = {"schema": 1, "protocol": "compare", **dataclasses.asdict(found)}
        write_json_option(args.json, values)
    finally:
        console.print(table)
    return 0


def _add_lists(parser: argparse.ArgumentParser) -> None:
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument(
        "--pairs", type=existing_file, metavar="FILE", help="the pairs are LFW's pairs.txt"
    )
    lists.add_argument(
        "--splits", type=existing_file, metavar="FILE", help="the pairs are YTF's splits.txt"
    )


def _pairs(args: argparse.Namespace) -> Pairs | None:
    if args.pairs is not None:
        return read_pairs(args.pairs)
    return None if args.splits is None else read_splits(args.splits)
