"""`tf_sphereface-eval identify`: identification among distractors and on a watch list."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tf_sphereface.alignment.listing import find_images
from tf_sphereface.commands.console import (
    CommandError,
    console,
    existing_dir,
    existing_file,
    progress_bar,
    warn,
    write_json_option,
)
from tf_sphereface.commands.eval.shared import Subparsers, add_protocol, embedding_options
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.eval import folder, identification
from tf_sphereface.eval.identification.watch_list import FEWEST_PEOPLE
from tf_sphereface.eval.measures.hints import hint_of_vectors
from tf_sphereface.eval.report.tables import describe_model
from tf_sphereface.eval.scoring.precomputed import read_embeddings
from tf_sphereface.eval.scoring.score_pairs import join_sides, verification_vectors_of_files
from tf_sphereface.eval.scoring.sources import open_embedder


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(
        protocols,
        "identify",
        "who is it: ranks among distractors, and a watch list",
        run,
        verifies=False,
    )
    parser.add_argument(
        "root", type=existing_dir, metavar="DIR", help="holds one folder per person"
    )
    parser.add_argument(
        "--distractors",
        type=Path,
        metavar="DIR|FILE",
        help="faces of other people, in one folder or in folders; or a .npz of their embeddings",
    )
    parser.add_argument(
        "--distractor-landmarks",
        type=existing_file,
        metavar="FILE",
        help="as --landmarks, for the images of --distractors; without it they must be aligned",
    )
    parser.add_argument(
        "--trials", type=int, default=10, metavar="N", help="in BLUFR's manner; 0 leaves them out"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of people, distractors")
    add_strict_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.distractors is None and args.trials < 1:
        raise CommandError("nothing to do: give --distractors, or a positive number of --trials")
    if args.distractor_landmarks is not None:
        _check_aligned(args.distractors)
    model = open_embedder(args.model, embedding_options(args))
    people = folder.scan(args.root, args.strict)
    several = sum(len(files) > 1 for files in people.values())
    trials = args.trials if several >= FEWEST_PEOPLE else 0
    if trials < args.trials:
        few = (
            f"{args.root} has {several} people of two images or more, and BLUFR's trials need "
            f"{FEWEST_PEOPLE}"
        )
        if args.distractors is None:
            raise CommandError(few)
        warn(f"{few}: none are made")
    names = [file for files in people.values() for file in files]
    labels = np.repeat(np.arange(len(people)), [len(files) for files in people.values()])
    vectors = _embed(args, model, args.root, names, args.landmarks)
    hint = hint_of_vectors(vectors)
    if hint is not None:
        warn(hint)
    one_image = getattr(model, "image_dim", model.embedding_dim)  # the mirror may be built in
    flipped = vectors.shape[1] > one_image
    what = "image and mirror image, concatenated" if flipped else "the image alone"
    text = (
        f"{len(names):,} images of {len(people):,} people; cosine of the embeddings of {what}; "
        "every comparison made, ties counted against the model."
    )
    values: dict[str, Any] = {
        "schema": 1,
        "protocol": "identify",
        "description": text,
        "model": describe_model(model),
        "data": {"images": len(names), "people": len(people)},
        "hints": [] if hint is None else [hint],
    }
    tables = []
    if args.distractors is not None:
        others = _distractors(args, model)
        result = identification.with_distractors(vectors, labels, others, seed=args.seed)
        values["distractors"] = distractors_to_dict(result)
        tables.append(_rank_table(result))
    if trials > 0:
        found = identification.blufr(vectors, labels, trials=trials, seed=args.seed)
        values["blufr"] = blufr_to_dict(found)
        tables.append(_blufr_table(found))
    try:
        write_json_option(args.json, values)
    finally:
        console.print(text)
        for table in tables:
            console.print(table)
    return 0


def _check_aligned(distractors: Path | None) -> None:
    """Refuse landmarks where there are no images to align by them."""
    if distractors is None or distractors.is_file():
        given = "no --distractors" if distractors is None else f"--distractors {distractors}"
        raise CommandError(
            "--distractor-landmarks must come with --distractors DIR, a folder of images. "
            f"Received: {given}"
        )


def _embed(
    args: argparse.Namespace, model: Any, root: Path, names: list[str], landmarks: Path | None
) -> Any:
    with progress_bar("embedding images") as show:
        options = embedding_options(args, landmarks=landmarks, progress=show)
        return verification_vectors_of_files(model, root, names, options)


def _distractors(args: argparse.Namespace, model: Any) -> Any:
    """Return the distractors' embeddings, from a file or embedded."""
    root = args.distractors
    if root.is_file():
        stored = read_embeddings(root)
        if args.no_flip:
            return stored.embeddings
        if stored.mirrored is None:
            raise CommandError(f"{root} has no mirrored embeddings: say --no-flip")
        return join_sides(stored.embeddings, stored.mirrored, "concat")
    if not root.is_dir():
        raise CommandError(f"no such file or folder: {root}")
    names = find_images(root, strict=args.strict)
    if not names:
        raise CommandError(f"{root} holds no images")
    return _embed(args, model, root, names, args.distractor_landmarks)


def rates_to_list(rates: identification.RatesAtFar) -> list[dict[str, Any]]:
    """Return rates at false accept rates as plain values."""
    return [
        {
            "far": far,
            "rate": rate,
            "interval": rates.intervals[far],
            "threshold_best_on_test": rates.thresholds[far],
            "reason": rates.reasons.get(far),
        }
        for far, rate in rates.rates.items()
    ]


def distractors_to_dict(result: identification.DistractorResult) -> dict[str, Any]:
    """Return a `DistractorResult` as plain values."""
    return {
        "searches": result.num_searches,
        "people": result.num_people,
        "rates": [
            {"distractors": size, **{f"rank_{rank}": rate for rank, rate in ranks.items()}}
            for size, ranks in result.rates.items()
        ],
        "genuine": result.verification.num_genuine,
        "impostor": result.verification.num_impostor,
        "tar_at_far": rates_to_list(result.verification),
    }


def blufr_to_dict(result: identification.BLUFRResult) -> dict[str, Any]:
    """Return a `BLUFRResult` as plain values."""

    def summed(rates: dict[float, Any], reasons: dict[float, str]) -> list[dict[str, Any]]:
        return [
            {
                "far": far,
                "mean": pair[0] if pair else None,
                "std": pair[1] if pair else None,
                "mean_minus_std": pair[0] - pair[1] if pair else None,
                "reason": None if pair else reasons.get(far),
            }
            for far, pair in rates.items()
        ]

    return {
        "vr_at_far": summed(result.vr_at_far, _reasons(result.verification)),
        "dir_at_far": [
            {"rank": rank, "rates": summed(rates, _rank_reasons(result, rank))}
            for rank, rates in result.dir_at_far.items()
        ],
        "trials": [
            {
                "gallery": trial.num_gallery,
                "genuine_probes": trial.num_genuine,
                "impostor_probes": trial.num_impostor,
                "rates": {f"rank_{rank}": rate for rank, rate in trial.rates.items()},
            }
            for trial in result.open_set
        ],
    }


def _reasons(trials: Sequence[Any]) -> dict[float, str]:
    """Return why a rate cannot be stated, by the first trial that cannot."""
    return {far: why for trial in reversed(trials) for far, why in trial.reasons.items()}


def _rank_reasons(result: identification.BLUFRResult, rank: int) -> dict[float, str]:
    return _reasons([trial.dir_at_far[rank] for trial in result.open_set])


def _rank_table(result: identification.DistractorResult) -> Table:
    size = max(result.rates)
    table = Table(
        title=f"{result.num_searches:,} searches among up to {size:,} distractors, %",
        title_justify="left",
    )
    table.add_column("distractors", justify="right")
    for rank in result.rates[size]:
        table.add_column(f"rank {rank}", justify="right")
    for count, ranks in result.rates.items():
        table.add_row(f"{count:,}", *(f"{100 * rate:.2f}" for rate in ranks.values()))
    for far, rate in result.verification.rates.items():
        text = result.verification.reasons[far] if rate is None else f"{100 * rate:.2f}"
        table.add_row(f"TAR at FAR {far:g}", text)
    return table


def _blufr_table(result: identification.BLUFRResult) -> Table:
    table = Table(
        title=f"{len(result.open_set)} trials in BLUFR's manner: mean ± standard deviation, %",
        title_justify="left",
    )
    table.add_column("FAR", justify="right")
    table.add_column("VR, all pairs", justify="right")
    ranks = list(result.dir_at_far)
    for rank in ranks:
        table.add_column(f"DIR at rank {rank}", justify="right")
    for far, verified in result.vr_at_far.items():
        cells = [(verified, _reasons(result.verification))]
        cells += [(result.dir_at_far[rank][far], _rank_reasons(result, rank)) for rank in ranks]
        table.add_row(
            f"{far:g}",
            *(
                f"{100 * pair[0]:.2f} ± {100 * pair[1]:.2f}" if pair else reasons.get(far, "")
                for pair, reasons in cells
            ),
        )
    return table
