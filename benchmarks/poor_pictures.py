"""Verification on LFW's pairs and on poor copies of them: what `--augment quality` is for.

    python benchmarks/poor_pictures.py MODEL... --lfw DIR

LFW's folder has `images/`, `pairs.txt` and `landmarks.tsv`. All pictures are made poor in the same
way, at the strongest of `data.degradation`, and once as in training, by chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import tf_sphereface as sf
from tf_sphereface.callbacks import Verification
from tf_sphereface.data import degradation
from tf_sphereface.eval.scoring.score_pairs import embed_verification


def main() -> None:
    """Print a table, a row for each way and a column for each model."""
    args = parser().parse_args()
    embedders = [sf.load_embedder(model) for model in args.models]
    print(f"| pictures | {' | '.join(Path(model).stem for model in args.models)} |")
    print("|---" * (len(embedders) + 1) + "|")
    for name in ("as they are", *degradation.CHOICES, "by chance"):
        figures = [accuracy(embedder, args, name) for embedder in embedders]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


def accuracy(embedder: Any, args: argparse.Namespace, name: str) -> str:
    """Return accuracy and standard error in percent; image and mirror image, concatenated."""
    held = Verification.from_files(
        args.lfw / "images",
        args.lfw / "pairs.txt",
        args.lfw / "landmarks.tsv",
        input_size=embedder.metadata.input_size,
    )
    images = poor(held.images, name, np.random.default_rng(args.seed))
    left, right, is_same, folds = held.pairs
    result = embed_verification(embedder, images, left, right, is_same, folds, flip=True).headline
    return f"{100 * result.accuracy:.2f} ± {100 * result.std_error:.2f}"


def poor(images: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Return poor copies of the pictures, in one way or by chance."""
    if name == "as they are":
        return images
    if name == "by chance":
        return degradation.degrade(images, rng.uniform(size=(degradation.DRAWS, len(images))))
    draws = rng.uniform(size=(len(images), 3))
    return np.stack(
        [
            degradation.degrade_by(face, name, 1.0, each)
            for face, each in zip(images, draws, strict=True)
        ]
    )


def parser() -> argparse.ArgumentParser:
    """Return the script's options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("models", nargs="+", help="files that load_embedder opens")
    result.add_argument("--lfw", type=Path, required=True)
    result.add_argument("--seed", type=int, default=0)
    return result


if __name__ == "__main__":
    main()
