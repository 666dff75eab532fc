"""Verification of small networks that learn from a teacher, as they learn, by seed.

    python benchmarks/distillation.py TEACHER --faces DIR --lfw DIR --seeds 3 --hours 1 \
        --students half

TEACHER is what `tf_sphereface-train --teacher` takes. LFW's folder has `images/`, `pairs.txt` and
`landmarks.tsv`. A run has as many epochs as fit into `--hours` of this machine, by the time of a
few steps with `--cores` threads; the time of the teacher's embeddings, which are computed once for
all runs, is taken off each. The teacher's own accuracy is printed first: the students see no label,
but the teacher was trained on data of its own, and their figures rest on those.
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
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface import training
from tf_sphereface.callbacks import Verification
from tf_sphereface.data import FaceSource
from tf_sphereface.eval.scoring.score_pairs import embed_verification

STUDENTS: dict[str, dict[str, Any]] = {
    "half": {"backbone": "sphereface4", "input_size": (56, 48), "embedding_dim": 128},
    "full": {"backbone": "sphereface4", "input_size": (112, 96), "embedding_dim": 128},
    "half10": {"backbone": "sphereface10", "input_size": (56, 48), "embedding_dim": 128},
    "mobilefacenet-half": {
        "backbone": "mobilefacenet",
        "input_size": (56, 48),
        "embedding_dim": 128,
    },
    "mobilefacenet": {"backbone": "mobilefacenet", "input_size": (112, 96), "embedding_dim": 128},
}
TIMED = 8  # steps


def main() -> None:
    """Print the teacher's accuracy, then a row for each run and epoch that is verified."""
    args = parser().parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.cores)
    tf.config.threading.set_inter_op_parallelism_threads(args.cores)
    teacher = training.open_teacher(args.teacher)
    print(f"teacher {teacher}")
    print(f"teacher on LFW's pairs: {accuracy(teacher.embedder, lfw(args, teacher.embedder)):.2f}")
    print("| student | seed | parameters | epochs | LFW, flip | seconds | of CPU |")
    print("|---|---|---|---|---|---|---|", flush=True)
    cache = args.cache or Path(tempfile.mkdtemp(prefix="teacher-"))
    for name in args.students:
        for seed in range(args.seeds):
            measure(args, teacher, name, seed, cache)


def measure(
    args: argparse.Namespace, teacher: training.Teacher, name: str, seed: int, cache: Path
) -> None:
    """Train one student and print its curve."""
    recipe = dataclasses.replace(
        training.preset("distill"), **STUDENTS[name], seed=seed, **json.loads(args.recipe)
    )
    source = FaceSource(args.faces, image_size=recipe.input_size, resize=True, unlabelled=True)
    training.teacher_embeddings(teacher, source, cache)
    epochs = args.epochs or fitting_epochs(recipe, teacher, source, args.hours)
    recipe = dataclasses.replace(recipe, epochs=epochs)
    held = lfw(args, recipe)
    begun, cpu = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        every = max(1, recipe.epochs // args.points)
        verification = Verification(*held, every=every, metadata=sf.embedder.EmbedderMetadata())
        run = training.distill(
            teacher, source, folder, recipe, cache=cache, callbacks=[verification]
        )
    parameters = run.model.backbone.count_params()
    for row in run.log.rows:
        if np.isfinite(row["verification_accuracy"]):
            figures = f"{row['epoch']} | {100 * row['verification_accuracy']:.2f}"
            print(f"| {name} | {seed} | {parameters:,} | {figures} | {row['seconds']:.0f} | |")
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    last = accuracy(sf.load_embedder(run.network()), held)
    figures = f"{recipe.epochs} | **{last:.2f}** | {seconds:.0f} | {cpu:.0f}"
    print(f"| {name} | {seed} | {parameters:,} | {figures} |", flush=True)


def fitting_epochs(
    recipe: training.Recipe, teacher: training.Teacher, source: FaceSource, hours: float
) -> int:
    """Return how many epochs fit into the time that is left, by timing a few steps."""
    taught = dataclasses.replace(teacher.recipe(recipe), epochs=1)
    model = training.build_classifier(taught, source.num_classes, 1, teacher_dim=teacher.dim)
    table = np.zeros((2, len(source), teacher.dim), np.float16)
    table[..., 0] = 1
    batches = source.with_batches(
        batch_size=recipe.batch_size, augment=recipe.augment, seed=0
    ).with_targets(table)
    stream = batches.stream()
    model.fit(stream, steps_per_epoch=2, shuffle=False, verbose=0)  # traces
    begun = time.monotonic()
    model.fit(stream, steps_per_epoch=TIMED, shuffle=False, verbose=0)
    epoch = (time.monotonic() - begun) / TIMED * batches.steps_per_epoch
    return max(1, int((3600 * hours - teacher.cost(len(source))[0]) / epoch))


def lfw(args: argparse.Namespace, of: Any) -> tuple[Any, ...]:
    """Return aligned images, pairs and folds at the size of an embedder or a recipe."""
    folder, names = args.lfw, ("images", "pairs.txt", "landmarks.tsv")
    held = Verification.from_files(*(folder / name for name in names), input_size=of.input_size)
    return (held.images, *held.pairs)


def accuracy(embedder: Any, held: tuple[Any, ...]) -> float:
    """Return the accuracy in percent; image and mirror image, concatenated."""
    images, *pairs = held
    return 100 * embed_verification(embedder, images, *pairs).accuracy


def parser() -> argparse.ArgumentParser:
    """Return the script's options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("teacher", type=Path)
    result.add_argument("--faces", type=Path, required=True)
    result.add_argument("--lfw", type=Path, required=True)
    result.add_argument("--students", nargs="+", choices=tuple(STUDENTS), default=["half"])
    result.add_argument("--seeds", type=int, default=3)
    result.add_argument("--hours", type=float, default=1.0, help="of each run")
    result.add_argument("--cores", type=int, default=2)
    result.add_argument("--epochs", type=int, help="in place of --hours")
    result.add_argument("--points", type=int, default=5, help="of the curve")
    result.add_argument("--cache", type=Path, help="of the teacher's embeddings")
    result.add_argument("--recipe", default="{}", help='JSON, such as \'{"augment": "mirror"}\'')
    return result


if __name__ == "__main__":
    main()
