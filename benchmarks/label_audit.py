"""Plant wrong labels, and count which of them the audit lists, at several angles.

Among synthetic faces, on which a network is trained with them, or among real ones that an embedder
has not seen:

    python benchmarks/label_audit.py --loss arcface --centers 3
    python benchmarks/label_audit.py --model model.keras --faces faces/ --exclude labels/exclude.txt

docs/results/practice.md has figures.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

import tf_sphereface as sf
from tf_sphereface import data, training
from tf_sphereface.training import building

SIZE, WIDTH, BATCH = (28, 24), 64, 32


def main() -> None:
    """Run once, and print precision and recall at several angles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loss", default="arcface", choices=training.recipes.LOSSES)
    parser.add_argument("--centers", type=int, default=3)
    parser.add_argument("--wrong", type=float, default=0.1, help="share of the labels")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--model", type=Path, help="an embedder, in place of training")
    parser.add_argument("--faces", type=Path, help="with --model: a folder per person")
    parser.add_argument("--exclude", type=Path, help="with --model: images to leave out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.model is None) != (args.faces is None) or (args.exclude and args.model is None):
        parser.error("--model, --faces and --exclude go together")
    vectors, labels, wrong, centers = trained(args) if args.model is None else embedded(args)
    for angle in (60.0, 65.0, 70.0, 75.0):
        listed = [d.position for d in data.doubtful_labels(vectors, labels, centers, angle)]
        precision = wrong[listed].mean() if listed else np.nan
        recall = wrong[listed].sum() / wrong.sum()
        print(
            f"{angle:g} degrees: {len(listed)} listed, precision {precision:.3f}, "
            f"recall {recall:.3f}"
        )


def planted(true: np.ndarray, args: argparse.Namespace) -> tuple[NDArray[np.int32], np.ndarray]:
    """Return labels of which some are wrong, and which."""
    rng, people = np.random.default_rng(args.seed), int(true.max()) + 1
    wrong = np.zeros(len(true), bool)
    wrong[rng.choice(len(true), int(args.wrong * len(true)), replace=False)] = True
    others = (true + rng.integers(1, people, len(true))) % people
    return np.where(wrong, others, true).astype("int32"), wrong


def trained(args: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Train on synthetic faces; return embeddings, labels, which are wrong, and class centres."""
    images, true = data.synthetic.training_set(args.people, args.images, size=SIZE)
    labels, wrong = planted(true, args)
    recipe = dataclasses.replace(
        training.preset("quick"),
        input_size=SIZE,
        embedding_dim=WIDTH,
        batch_size=BATCH,
        epochs=args.epochs,
        loss=args.loss,
        centers_per_class=args.centers,
        precision="float32",
        seed=args.seed,
    )
    source = building.batches_of(recipe, data.FaceSource((images, labels), image_size=SIZE))
    model = training.build_classifier(recipe, args.people, source.steps_per_epoch)
    history = training.train(
        model, source, epochs=args.epochs, steps_per_epoch=source.steps_per_epoch
    )
    vectors = np.concatenate([np.asarray(model.backbone(batch)) for batch, _ in source.in_order()])
    kernel = keras.ops.convert_to_numpy(model.head_layer.kernel)
    print(f"{args.loss}, {args.centers} centres, accuracy {history['accuracy'][-1]:.2f}")
    return vectors, labels, wrong, kernel.T.reshape(args.people, args.centers, WIDTH)


def embedded(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, None]:
    """Embed real faces; return the same but for centres: each person's other images decide."""
    embedder = sf.load_embedder(args.model)
    exclude = None if args.exclude is None else data.read_exclusions(args.exclude)
    source = data.FaceSource(args.faces, image_size=embedder.input_size, exclude=exclude).load()
    batches = source.in_order(dtype="uint8")
    vectors = np.concatenate([embedder(np.asarray(images)) for images, *_ in batches])
    return vectors, *planted(source.labels, args), None


if __name__ == "__main__":
    main()
