"""`tf_sphereface-eval bins`: several `.bin` sets in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    console,
    note,
    progress,
    warn,
    write_json_option,
)
from tf_sphereface.commands.eval.report_options import add_report_option
from tf_sphereface.commands.eval.shared import Subparsers, add_protocol, embedding_options
from tf_sphereface.eval import bin_sets
from tf_sphereface.eval.measures.checks import require_libraries
from tf_sphereface.eval.report.bin_sets import (
    published_table,
    sets_table,
    sets_to_dict,
    write_sets_page,
)
from tf_sphereface.eval.scoring.sources import open_embedder
from tf_sphereface.utils.messages import ProgressCallback


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    summary = "all .bin sets of a folder in one table: lfw, cfp_fp, agedb_30 ..., and their mean"
    parser = add_protocol(protocols, "bins", summary, run, alignable=False, verifies=False)
    parser.add_argument(
        "sets",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="folders of .bin files, or such files; exit code 1 where one cannot be evaluated",
    )
    add_report_option(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate all sets; a set that fails is named, and the others are evaluated."""
    require_libraries()
    found = bin_sets.find_bins(args.sets)
    embedding = embedding_options(args)
    model = open_embedder(args.model, embedding)
    with progress() as bars:

        def begin(name: str) -> ProgressCallback:
            task = bars.add_task(f"embedding {name}", total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        result = bin_sets.evaluate_sets(
            model, found, embedding.flip, begin, cache=embedding.cache, on_error="report"
        )
    values = sets_to_dict(result)
    try:  # first: a closed pipe must not lose it
        write_json_option(args.json, values)
        if args.report is not None:
            write_sets_page(values, args.report)
            note(f"wrote {args.report}")
    finally:  # nor a file that cannot be written the table
        for table in (sets_table(values), published_table(values)):
            if table is not None and result.sets:
                console.print(table)
        console.print(values["description"], soft_wrap=True)
        for name, reason in result.failures.items():
            warn(f"{name} is not evaluated: {reason}")
    return EXIT_CHECK_FAILED if result.failures else EXIT_OK
