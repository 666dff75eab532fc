"""Recipes beside each other: verification of what each learns from the same people.

    python benchmarks/recipes.py --faces DIR --lfw DIR \
        --change '{"epochs": 8}' --change '{"epochs": 8, "augment": "strong"}'

A row for each change to the preset and each seed: accuracy on LFW's pairs (its folder has
`images/`, `pairs.txt` and `landmarks.tsv`), plain and mean subtracted, and the figures of people
who are kept out of training, the same ones in each row. They have several times as many pairs as
LFW's list, so they tell recipes apart that LFW's do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_sphereface import training
from tf_sphereface.callbacks import Verification, verify_on
from tf_sphereface.data import FaceSource, hold_out
from tf_sphereface.data.held_out import uint8_faces
from tf_sphereface.eval.scoring.score_pairs import VerificationTable, embed_verification

FAR = 0.01


def main() -> None:
    """Print a table, a row for each change and seed."""
    args = parser().parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.cores)
    tf.config.threading.set_inter_op_parallelism_threads(args.cores)
    print(f"preset {args.preset}; {args.people} people held out; TAR at FAR {FAR:g}")
    print("| change | seed | LFW | mean subtracted | EER held out | TAR | CPU seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for change in args.change or ["{}"]:
        for seed in args.seeds:
            recipe = dataclasses.replace(
                training.preset(args.preset), **json.loads(change), seed=seed
            )
            print(f"| `{change}` | {seed} | {figures(args, recipe)} |", flush=True)


def figures(args: argparse.Namespace, recipe: training.Recipe) -> str:
    """Train a recipe and return what its network reaches."""
    everybody = FaceSource(args.faces, image_size=recipe.input_size, resize=True)
    source, others = hold_out(everybody, args.people)
    begun = time.process_time()
    network, _ = training.train_recipe(recipe, uint8_faces(source))
    seconds = time.process_time() - begun
    names = (args.lfw / name for name in ("images", "pairs.txt", "landmarks.tsv"))
    lfw = verified(network, Verification.from_files(*names, input_size=recipe.input_size))
    held = verified(network, verify_on(others, args.pairs)).headline
    tar = held.tar_at_far[FAR]  # None: too few pairs
    shares = [lfw.accuracy, lfw.table["flip", "mean_subtracted"].accuracy, held.eer]
    shares.append(np.nan if tar is None else tar)
    return " | ".join([*(f"{100 * share:.2f}" for share in shares), f"{seconds:.0f}"])


def verified(network: Any, on: Verification) -> VerificationTable:
    """Return what a network reaches on pairs."""
    return embed_verification(network, on.images, *on.pairs)


def parser() -> argparse.ArgumentParser:
    """Return the script's options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--faces", type=Path, required=True)
    result.add_argument("--lfw", type=Path, required=True)
    result.add_argument("--preset", choices=tuple(training.PRESETS), default="long")
    result.add_argument("--change", action="append", help="JSON, such as '{\"epochs\": 8}'")
    result.add_argument("--people", type=int, default=60, help="kept out of training")
    result.add_argument("--pairs", type=int, default=1000, help="of a class in a fold")
    result.add_argument("--seeds", type=int, nargs="+", default=[0])
    result.add_argument("--cores", type=int, default=2)
    return result


if __name__ == "__main__":
    main()
