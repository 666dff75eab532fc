"""Verification before and after a network is fine-tuned on some people, held-out people too.

    python benchmarks/fine_tuning.py MODEL --faces DIR --lfw DIR --people 20 100 600 --seeds 3

MODEL is a .keras file; the faces have its size, in one folder for each person. LFW's
folder has `images/`, `pairs.txt` and `landmarks.tsv`. For each number of people and each seed, that
many are drawn to train on, and all others of the folder are verified on. `--exclude` leaves images
out of both, such as those whose label is in doubt (`tf_sphereface-data audit faces/ --labels
MODEL`): no network can tell a pair with a wrong label.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tf_sphereface as sf
from tf_sphereface import training
from tf_sphereface.callbacks import Verification, verify_on
from tf_sphereface.data import FaceSource, hold_out, read_exclusions
from tf_sphereface.embedder.embedder import embed_sides


def main() -> None:
    """Print a table, a row for each run."""
    args = parser().parse_args()
    start = training.open_pretrained(args.model)
    recipe = dataclasses.replace(training.preset("fine-tune"), **json.loads(args.recipe))
    faces = FaceSource(
        args.faces,
        image_size=start.metadata.input_size,
        channel_order=start.metadata.channel_order,
        exclude=None if args.exclude is None else read_exclusions(args.exclude),
    )
    everybody = len(faces.listing())
    lfw = accuracy_on_lfw(args, start.network)
    print(f"recipe: {recipe.loss}, {recipe.epochs} epochs, {args.recipe}")
    print("| people | seed | held out before | after | LFW before | after | seconds of CPU |")
    print("|---|---|---|---|---|---|---|")
    for people in args.people:
        for seed in range(args.seeds):
            source, others = hold_out(faces, everybody - people, seed)
            held = verify_on(others, args.pairs)
            before = accuracy(start.network, held)
            begun = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                seeded = dataclasses.replace(recipe, seed=seed)
                network = training.fine_tune(start, source, folder, seeded).network()
            seconds = time.process_time() - begun
            after, after_lfw = accuracy(network, held), accuracy_on_lfw(args, network)
            figures = f"{before:.2f} | {after:.2f} | {lfw:.2f} | {after_lfw:.2f} | {seconds:.0f}"
            print(f"| {people} | {seed} | {figures} |", flush=True)


def accuracy(network: Any, held: Verification) -> float:
    """Return the accuracy on held-out pairs, in percent; image and mirror image, concatenated."""
    embedder = sf.load_embedder(network)
    vectors = np.concatenate(embed_sides(embedder, held.images), axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right, is_same, folds = held.pairs
    scores = np.sum(vectors[left] * vectors[right], axis=1)
    return 100 * float(sf.eval.verification.evaluate(scores, is_same, folds).accuracy)


def accuracy_on_lfw(args: argparse.Namespace, network: Any) -> float:
    """Return the accuracy on LFW's pairs, in percent; image and mirror image."""
    result = sf.eval.lfw.evaluate(
        network,
        images=args.lfw / "images",
        pairs=args.lfw / "pairs.txt",
        landmarks=args.lfw / "landmarks.tsv",
    )
    return 100 * float(result.accuracy)


def parser() -> argparse.ArgumentParser:
    """Return the script's options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("model", type=Path)
    result.add_argument("--faces", type=Path, required=True)
    result.add_argument("--lfw", type=Path, required=True)
    result.add_argument("--exclude", type=Path, help="a list of images, as of an audit")
    result.add_argument("--people", type=int, nargs="+", default=[20, 100, 600])
    result.add_argument("--seeds", type=int, default=3)
    result.add_argument("--pairs", type=int, default=300, help="of each class in each of ten folds")
    result.add_argument("--recipe", default="{}", help="JSON, such as '{\"epochs\": 2}'")
    return result


if __name__ == "__main__":
    main()
