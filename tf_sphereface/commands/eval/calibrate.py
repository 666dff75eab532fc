"""`tf_sphereface-eval calibrate`: write a threshold into a model."""

from __future__ import annotations

import argparse

from rich.text import Text

from tf_sphereface.commands.console import (
    CommandError,
    add_json_option,
    console,
    existing_dir,
    existing_file,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_batch_size_option,
    add_groups_options,
    add_landmarks_option,
    add_subcommand,
)
from tf_sphereface.commands.input_options import (
    add_input_options,
    add_strict_option,
    input_facts,
)
from tf_sphereface.embedder.embedder import load_embedder
from tf_sphereface.embedder.metadata_rewriting import require_one_file
from tf_sphereface.eval.calibration import calibrate, store
from tf_sphereface.eval.report.groups import groups_table

SUMMARY = "choose the threshold for a false accept rate, and write it into the model"
DESCRIPTION = """\
Choose the cosine from which two faces count as one person, so that the share of accepted impostor
pairs is at most --far, and write it into MODEL, with its confidence interval and what it was
measured on. tf_sphereface-verify then uses it. The network itself is not touched.

Take people whom the model was not trained on, and others than those it is tested on.
"""


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_subcommand(protocols, "calibrate", SUMMARY, run, DESCRIPTION)
    parser.add_argument(
        "model", type=existing_file, metavar="MODEL", help="a .keras, .tflite or .onnx file"
    )
    parser.add_argument("images", type=existing_dir, metavar="DIR", help="one folder per person")
    parser.add_argument(
        "--far", type=float, default=1e-2, metavar="RATE", help="false accept rate, a fraction"
    )
    parser.add_argument(
        "--pairs", type=existing_file, metavar="FILE", help="as LFW's; else any two images"
    )
    add_landmarks_option(parser)
    parser.add_argument(
        "--flip",
        choices=("none", "concat", "sum"),
        help="what is done with the mirror image, here and by verify (else as the model says)",
    )
    parser.add_argument(
        "--max-pairs", type=int, default=200_000, metavar="N", help="of each class, without --pairs"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pairs")
    add_batch_size_option(parser)
    add_input_options(parser)
    add_groups_options(parser, threshold=False)
    add_strict_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="leave the model as it is")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if not args.dry_run:
        try:
            require_one_file(args.model)
        except ValueError as error:
            raise CommandError(f"{error}, or give --dry-run --json") from error
    with progress_bar("embedding images") as show:
        result = calibrate(
            load_embedder(args.model, batch_size=args.batch_size, **input_facts(args)),
            args.images,
            args.far,
            pairs=args.pairs,
            landmarks=args.landmarks,
            flip=args.flip,
            max_pairs=args.max_pairs,
            seed=args.seed,
            groups=args.groups,
            strict=args.strict,
            progress=show,
        )
    write_json_option(args.json, result.to_dict())
    low, high = result.threshold_interval
    accepted = f"{100 * result.measured_far:.4g} % of {result.impostor_pairs:,} impostor pairs"
    if result.tar is not None:
        accepted += f" and {100 * result.tar:.2f} % of {result.genuine_pairs:,} genuine pairs"
    console.print(
        Text(f"threshold {result.threshold:.4f}", style="bold"),
        f"for a false accept rate of {result.far:g} (95 % interval {low:.4f} to {high:.4f})\n"
        f"measured: {accepted} accepted; {result.images:,} images of {result.people:,} people, "
        f"flip {result.flip}",
    )
    if result.groups is not None:
        console.print(groups_table(result.groups.to_dict()))
    if args.dry_run:
        console.print(f"{args.model} is left as it was")
        return 0
    try:
        store(result, args.model)
    except OSError as error:
        raise CommandError(
            f"{args.model} is left as it was, without this threshold: {error}"
        ) from error
    console.print(f"written into {args.model}")
    return 0
