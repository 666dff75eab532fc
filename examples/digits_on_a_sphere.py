"""Handwritten digits on the unit sphere: softmax beside A-Softmax, in a stock Keras model.

    python examples/digits_on_a_sphere.py --out digits.png

trains two small networks with embeddings of three dimensions on scikit-learn's digits, prints the
angles between pairs that it has not seen, and draws them. About a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import tf_sphereface as sf

CLASSES, BATCH = 6, 64


def load() -> tuple[Any, Any, Any, Any]:
    """Return images and labels to train on, and others to look at."""
    images, labels = load_digits(return_X_y=True)
    few = labels < CLASSES
    pictures = (images[few].reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    held_out = np.arange(few.sum()) % 3 == 2
    labels = labels[few].astype("int32")
    return pictures[~held_out], labels[~held_out], pictures[held_out], labels[held_out]


def make_backbone() -> keras.Model:
    """Return a small network from images to three numbers."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2D(48, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def train(images: Any, labels: Any, margin: int | None, epochs: int) -> keras.Model:
    """Train with softmax (no margin) or A-Softmax; return the backbone."""
    keras.utils.set_random_seed(0)
    backbone = make_backbone()
    steps = epochs * -(-len(images) // BATCH)
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.05, steps), momentum=0.9, global_clipnorm=5.0
    )
    callbacks: list[keras.callbacks.Callback] = []
    if margin is None:
        outputs = keras.layers.Dense(CLASSES)(backbone.output)
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        outputs = sf.layers.AngularDense(CLASSES)(backbone.output)  # unit class centres, no bias
        # The margin comes in slowly: lambda, the weight of the plain cosine, falls over the run.
        annealing = sf.schedules.LambdaAnnealing.for_steps(steps, 0.8, base=100.0, minimum=0.5)
        loss = sf.losses.ASoftmaxLoss(margin, annealing, step=optimizer)
        callbacks.append(sf.callbacks.AngularLogs())
    model = keras.Model(backbone.input, outputs)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=0)
    return backbone


def main() -> None:
    """Train, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    arguments = parser.parse_args()
    images, labels, others, other_labels = load()
    first, second = np.triu_indices(len(others), 1)
    same = other_labels[first] == other_labels[second]
    figure = Figure(figsize=(8, 4), layout="constrained")
    for place, margin in enumerate((None, 4), start=1):
        name = "softmax" if margin is None else f"A-Softmax, m = {margin}"
        backbone = train(images, labels, margin, epochs=4 if arguments.quick else 60)
        points = backbone.predict(others, verbose=0)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        angles = np.degrees(np.arccos(np.clip((points @ points.T)[first, second], -1, 1)))
        print(
            f"{name}: pairs of one digit are {angles[same].mean():.1f} degrees apart, pairs of two "
            f"{angles[~same].mean():.1f}"
        )
        panel = figure.add_subplot(1, 2, place, projection="3d")
        panel.scatter(*points.T, c=other_labels, cmap="tab10", s=6)
        panel.set(title=name, box_aspect=(1, 1, 1), xticks=(), yticks=(), zticks=())
    figure.savefig(arguments.out, dpi=110)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
