"""Options of all subcommands, the run of a protocol, and the output of its result."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_sphereface.commands.console import (
    CommandError,
    HelpFormatter,
    add_json_option,
    console,
    existing_file,
    note,
    output_file,
    progress_bar,
)
from tf_sphereface.commands.eval.report_options import add_report_option, write_report_options
from tf_sphereface.commands.input_options import add_input_options, input_facts
from tf_sphereface.eval import groups, scores, verification
from tf_sphereface.eval.report import tables
from tf_sphereface.eval.report.groups import groups_table
from tf_sphereface.eval.report.quality import quality_tables
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, open_embedder

Subparsers = argparse._SubParsersAction
Run = Callable[[argparse.Namespace], int]
_NETWORKS_ALONE = ("bins", "check")  # stored embeddings are of one set


def add_subcommand(
    protocols: Subparsers[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Run,
    description: str | None = None,
) -> argparse.ArgumentParser:
    """Add a subcommand; `run` takes the parsed arguments and returns the exit code."""
    parser = protocols.add_parser(
        name, help=summary, description=description or summary, formatter_class=HelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def add_protocol(
    protocols: Subparsers[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Run,
    alignable: bool = True,
    verifies: bool = True,
) -> argparse.ArgumentParser:
    """Add a protocol with MODEL and the options that all protocols share; return its parser.

    `alignable` protocols take landmarks; the result of one that `verifies` is of pairs.
    """
    parser = add_subcommand(protocols, name, summary, run)
    parser.add_argument(
        "model",
        type=existing_file,
        metavar="MODEL",
        help="a .keras, .tflite or .onnx file"
        + ("" if name in _NETWORKS_ALONE else ", or a .npz of embeddings by name"),
    )
    if alignable:
        add_landmarks_option(parser)
    parser.add_argument(
        "--no-flip", action="store_true", help="leave the mirror images out (half the time)"
    )
    add_batch_size_option(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of a .tflite or .onnx model"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep embeddings there, by the content of image and model: a killed run goes on",
    )
    add_input_options(parser)
    if not verifies:
        add_json_option(parser)
        return parser
    parser.add_argument(
        "--write-scores",
        type=output_file,
        metavar="FILE",
        help="the headline's scores, one line per pair, for the commands scores and compare",
    )
    add_result_options(parser)
    return parser


def add_landmarks_option(parser: argparse.ArgumentParser) -> None:
    """Add `--landmarks`."""
    parser.add_argument(
        "--landmarks",
        type=existing_file,
        metavar="FILE",
        help="a path and five x,y pairs per line, separated by tabs: images are aligned by them",
    )


def add_batch_size_option(parser: argparse.ArgumentParser) -> None:
    """Add `--batch-size`."""
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="faces at once")


def add_search_option(parser: argparse.ArgumentParser) -> None:
    """Add `--search`."""
    parser.add_argument(
        "--search",
        choices=("exact", "grid"),
        default="exact",
        help="thresholds are midpoints of scores, or the SphereFace authors' grid of 1e-4",
    )


def add_groups_options(parser: argparse.ArgumentParser, threshold: bool = True) -> None:
    """Add `--groups`, and with `threshold` also `--threshold`."""
    parser.add_argument(
        "--groups",
        type=_groups,
        metavar="FILE",
        help="a person or image and its group per line: false accepts and rejects of each group",
    )
    if threshold:
        parser.add_argument(
            "--threshold",
            type=float,
            metavar="SCORE",
            help="for --groups; else the model's own, else the mean of the folds'",
        )


def _groups(text: str) -> dict[str, str]:
    """An argparse type: a list of groups, read before the work."""
    try:
        return groups.read_groups(existing_file(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_groups_options(args: argparse.Namespace) -> None:
    """Refuse `--threshold` that would have no effect."""
    if args.threshold is not None and args.groups is None:
        raise CommandError(f"--threshold is for --groups. Received: {args.threshold}")


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add what every verification result can be asked for."""
    parser.add_argument(
        "--bootstrap",
        type=_count,
        default=0,
        metavar="N",
        help="draw the pairs again N times for intervals of AUC, EER and TAR at FAR",
    )
    add_groups_options(parser)
    add_json_option(parser)
    add_report_option(parser)


def _count(text: str) -> int:
    """An argparse type: how many, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number, 0 or more, is expected, not {text!r}")
    return int(text)


def run_protocol(
    args: argparse.Namespace,
    evaluate: Callable[..., Any],
    *inputs: Any,
    unit: str = "images",
    **options: Any,
) -> int:
    """Open MODEL, run a protocol under a progress bar, write and print the result; return 0.

    The protocol is called with the model, `inputs`, `options` and those options that all share;
    `unit` is what is embedded.
    """
    check_groups_options(args)
    embedding = embedding_options(args)
    model = open_embedder(args.model, embedding)
    with progress_bar(f"embedding {unit}") as show:
        result = evaluate(
            model, *inputs, flip=embedding.flip, cache=embedding.cache, progress=show, **options
        )
    return finish(args, result)


def embedding_options(args: argparse.Namespace, **options: Any) -> EmbeddingOptions:
    """Return the options of embedding that all protocols share, with others beside them."""
    return EmbeddingOptions(
        flip=not args.no_flip,
        batch_size=args.batch_size,
        cache=args.cache,
        threads=args.threads,
        input_facts={name: v for name, v in input_facts(args).items() if v is not None},
        **options,
    )


def finish(args: argparse.Namespace, result: Any) -> int:
    """Write and print a verification result as the options say; returns the exit code."""
    values = tables.to_dict(result)
    if args.bootstrap:
        headline = result.headline
        values["headline"]["bootstrap"] = tables.bootstrap_to_dict(
            verification.bootstrap(headline.scores, headline.is_same, repeats=args.bootstrap)
        )
    failure: ValueError | None = None
    if args.groups is not None:
        try:
            report = groups.rates_of_result(result, args.groups, args.threshold)
            values["groups"] = report.to_dict()
        except ValueError as error:  # the rest is not lost
            failure = error
    try:  # first: a closed pipe must not lose it
        write_report_options(args, result, values)
        if getattr(args, "write_scores", None) is not None:
            scores.write_scores(args.write_scores, result)
            note(f"wrote {args.write_scores}")
    finally:  # nor a file that cannot be written the table
        tables.print_result(result, console)
        if args.bootstrap:
            console.print(tables.bootstrap_table(values["headline"]["bootstrap"]))
        if "groups" in values:
            console.print(groups_table(values["groups"]))
        for part in quality_tables({"norm": values["quality"]}):
            console.print(part)
    if failure is not None:
        raise failure
    return 0
