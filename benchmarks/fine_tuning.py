"""Verification before and after a network is fine-tuned on some people, held-out people too.

    python benchmarks/fine_tuning.py MODEL --faces DIR --lfw DIR --people 20 100 600 --seeds 3

MODEL is a .keras file; the faces have its size, in one folder for each person. LFW's
folder has `images/`, `pairs.txt` and `landmarks.tsv`. For each number of people and each seed, that
many are drawn to train on, and all others of the folder are verified on. `--exclude` leaves images
out of both, such as those whose label is in doubt (`tf_sphereface-data audit faces/ --labels
MODEL`): no network can tell a pair with a wrong label. `--scratch` measures beside each what
SphereFaceNet-4 learns from the same people alone, at half size (preset `small`); `--taught` what
comes of it where the network itself, as it was, is the teacher.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import tf_sphereface as sf
from tf_sphereface import training
from tf_sphereface.callbacks import Verification, verify_on
from tf_sphereface.data import FaceSource, hold_out, read_exclusions
from tf_sphereface.data.held_out import uint8_faces
from tf_sphereface.eval.scoring.score_pairs import embed_verification

HALF = (56, 48)
SMALL_BATCH = 64  # a few people have some hundred faces: several updates for each epoch


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
            seeded = dataclasses.replace(recipe, seed=seed)
            for taught in [False, True] if args.taught else [False]:
                begun = time.process_time()
                network = tuned(start, source, seeded, taught)
                seconds = time.process_time() - begun
                after, after_lfw = accuracy(network, held), accuracy_on_lfw(args, network)
                name = f"{people}, taught" if taught else f"{people}"
                print_row(name, seed, before, after, lfw, after_lfw, seconds)
            if args.scratch:
                after, after_lfw, seconds = from_scratch(args, source, others, seed)
                print_row(f"{people}, from scratch", seed, None, after, None, after_lfw, seconds)


def print_row(name: str, seed: int, *figures: float | None) -> None:
    """Print a row of the table: four percents, of which some may be None, and seconds."""
    *percents, seconds = figures
    cells = ["" if value is None else f"{value:.2f}" for value in percents]
    print(f"| {name} | {seed} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def tuned(
    start: training.Pretrained, source: FaceSource, recipe: training.Recipe, taught: bool
) -> Any:
    """Return the network after fine-tuning; `taught`: with itself, as it was, as the teacher."""
    with tempfile.TemporaryDirectory() as folder:
        if not taught:
            return training.fine_tune(start, source, folder, recipe).network()
        taught_recipe = dataclasses.replace(recipe, distill_weight=0.5)
        teacher = sf.load_embedder(start.network)
        return training.distill(teacher, source, folder, taught_recipe, model=start).network()


def from_scratch(
    args: argparse.Namespace, source: FaceSource, others: FaceSource, seed: int
) -> tuple[float, float, float]:
    """Train a small network on the same people: accuracy held out and on LFW, in percent, and s."""
    recipe = dataclasses.replace(
        training.preset("small"), input_size=HALF, batch_size=SMALL_BATCH, seed=seed
    )
    faces, held = (dataclasses.replace(s, image_size=HALF, resize=True) for s in (source, others))
    pairs = verify_on(held, args.pairs)
    begun = time.process_time()
    network, _ = training.train_recipe(recipe, uint8_faces(faces))
    seconds = time.process_time() - begun
    return accuracy(network, pairs), accuracy_on_lfw(args, network), seconds


def accuracy(network: Any, held: Verification) -> float:
    """Return the accuracy on held-out pairs, in percent; image and mirror image, concatenated."""
    return 100 * embed_verification(network, held.images, *held.pairs).accuracy


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
    result.add_argument("--scratch", action="store_true", help="train on them alone as well")
    result.add_argument("--taught", action="store_true", help="and with itself as teacher")
    result.add_argument("--recipe", default="{}", help="JSON, such as '{\"epochs\": 2}'")
    return result


if __name__ == "__main__":
    main()
