"""Plant wrong labels among synthetic faces, train, and count which of them the audit lists.

`python benchmarks/label_audit.py --loss arcface --centers 3`: docs/results/practice.md has figures.
"""

from __future__ import annotations

import argparse
import dataclasses

import keras
import numpy as np

from tf_sphereface import data, training
from tf_sphereface.training import building

SIZE, WIDTH, BATCH = (28, 24), 64, 32


def main() -> None:
    """Run once, and print precision and recall at several angles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", default="arcface", choices=training.recipes.LOSSES)
    parser.add_argument("--centers", type=int, default=3)
    parser.add_argument("--wrong", type=float, default=0.1, help="share of the labels")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, true = data.synthetic.training_set(args.people, args.images, size=SIZE)
    rng = np.random.default_rng(args.seed)
    wrong = np.zeros(len(true), bool)
    wrong[rng.choice(len(true), int(args.wrong * len(true)), replace=False)] = True
    others = (true + rng.integers(1, args.people, len(true))) % args.people
    labels = np.where(wrong, others, true).astype("int32")
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
    centers = kernel.T.reshape(args.people, args.centers, WIDTH)
    print(f"{args.loss}, {args.centers} centres, accuracy {history['accuracy'][-1]:.2f}")
    for angle in (60.0, 65.0, 70.0, 75.0):
        listed = [d.position for d in data.doubtful_labels(vectors, labels, centers, angle)]
        precision = wrong[listed].mean() if listed else np.nan
        recall = wrong[listed].sum() / wrong.sum()
        print(
            f"{angle:g} degrees: {len(listed)} listed, precision {precision:.3f}, "
            f"recall {recall:.3f}"
        )


if __name__ == "__main__":
    main()
