"""`tf_sphereface-eval bins`: several `.bin` sets in one table."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    console,
    note,
    progress,
    warn,
    write_json_option,
)
from tf_sphereface.commands.eval.report_options import add_report_option
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_groups_options,
    add_protocol,
    check_groups_options,
    embedding_options,
)
from tf_sphereface.eval import bin_sets, groups
from tf_sphereface.eval.measures.checks import require_libraries
from tf_sphereface.eval.report.bin_sets import (
    published_table,
    sets_table,
    sets_to_dict,
    write_sets_page,
)
from tf_sphereface.eval.report.groups import groups_table
from tf_sphereface.eval.report.quality import quality_tables
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
    add_groups_options(parser)
    add_report_option(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate all sets; a set that fails is named, and the others are evaluated."""
    require_libraries()
    check_groups_options(args)
    found = bin_sets.find_bins(args.sets)
    _check_groups(args, found)
    embedding = embedding_options(args)
    model = open_embedder(args.model, embedding)
    with progress() as bars:

        def begin(name: str) -> ProgressCallback:
            task = bars.add_task(f"embedding {name}", total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        result = bin_sets.evaluate_sets(
            model, found, embedding.flip, begin, cache=embedding.cache, on_error="report"
        )
    values, ungrouped = sets_to_dict(result), {}
    if args.groups is not None:
        for name, entry in result.sets.items():
            if not _has_groups(name, args.groups):
                continue
            try:
                report = groups.rates_of_result(entry, args.groups, args.threshold, f"{name}/")
            except ValueError as error:  # the accuracies stand
                ungrouped[name] = str(error)
            else:
                values["sets"][name]["groups"] = report.to_dict()
    try:  # first: a closed pipe must not lose it
        write_json_option(args.json, values)
        if args.report is not None:
            write_sets_page(values, args.report)
            note(f"wrote {args.report}")
    finally:  # nor a file that cannot be written the table
        for table in (sets_table(values), published_table(values)):
            if table is not None and result.sets:
                console.print(table)
        for name, entry in values["sets"].items():
            if "groups" in entry:
                console.print(groups_table(entry["groups"], f"groups in {name}"))
        for part in quality_tables(
            {name: entry["quality"] for name, entry in values["sets"].items()}
        ):
            console.print(part)
        if result.sets:
            console.print(values["description"], soft_wrap=True)
        for name, reason in result.failures.items():
            warn(f"{name} is not evaluated: {reason}")
        for name, reason in ungrouped.items():
            warn(f"{name} is not measured by group: {reason}")
    return EXIT_CHECK_FAILED if result.failures or ungrouped else EXIT_OK


def _has_groups(name: str, listed: dict[str, str]) -> bool:
    return any(entry.startswith(f"{name}/") for entry in listed)


def _check_groups(args: argparse.Namespace, names: Iterable[str]) -> None:
    """Refuse a list of groups that is of none of the sets."""
    names = list(names)
    if args.groups is not None and not any(_has_groups(name, args.groups) for name in names):
        raise CommandError(
            "--groups must name images of the sets by set and number, such as "
            f"{names[0]}/0. Received: {next(iter(args.groups))!r}"
        )
