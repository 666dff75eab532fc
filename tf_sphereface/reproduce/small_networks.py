"""Small networks whose embedding has two or three dimensions, to show what the margin does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import tf_sphereface as sf
from tf_sphereface.eval.measures.angles import angular_fisher_score, degrees
from tf_sphereface.utils.optional import require

CLASSES = 6  # as many people as in the paper's figure
BATCH, LEARNING_RATE = 64, 0.05
LAMBDA_BASE, LAMBDA_MINIMUM = 100.0, 0.5
MEASURED_ON = ("seen", "held_out")


@dataclasses.dataclass(frozen=True, eq=False)
class SmallDataset:
    """A few classes of small pictures, float32 (n, height, width, channels) from about -1 to 1."""

    name: str
    about: str
    images: NDArray[np.float32]
    labels: NDArray[np.int32]
    held_out: NDArray[np.float32]
    held_out_labels: NDArray[np.int32]


def digits(classes: int = CLASSES) -> SmallDataset:
    """Return scikit-learn's handwritten digits of 8x8 pixels: real, and part of the package."""
    images, labels = require("sklearn.datasets", extra="eval").load_digits(return_X_y=True)
    few = labels < classes
    pictures = (images[few].reshape(-1, 8, 8, 1) / 8.0 - 1.0).astype("float32")
    return _split("digits", f"handwritten digits 0 to {classes - 1}, 8x8", pictures, labels[few])


def synthetic_people(images: int) -> SmallDataset:
    """Return synthetic faces of a few people, 28x24 pixels."""
    pictures, labels = sf.data.synthetic.training_set(CLASSES, images, size=(28, 24))
    pixels = (pictures.astype("float32") - 127.5) / 128.0
    return _split("faces", f"synthetic faces of {CLASSES} people, 28x24", pixels, labels)


def _split(name: str, about: str, images: Any, labels: Any) -> SmallDataset:
    """Hold every third picture out."""
    out = np.arange(len(labels)) % 3 == 2
    labels = labels.astype("int32")
    return SmallDataset(name, about, images[~out], labels[~out], images[out], labels[out])


def small_network(shape: Sequence[int], dimensions: int) -> keras.Model:
    """Return a small convolutional network whose embedding has 2 or 3 dimensions."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(tuple(shape)),
            layers.Conv2D(24, 3, strides=1 + (shape[0] > 8), padding="same"),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2D(48, 3, strides=2, padding="same"),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Flatten(),
            layers.Dense(64),
            layers.PReLU(),
            layers.Dense(dimensions),
        ]
    )


def train_small_network(
    dataset: SmallDataset, dimensions: int, margin: int | None, epochs: int
) -> Any:
    """Train a small network with A-Softmax, or softmax where there is no margin.

    Returns a dict: `held_out` and `seen`, embeddings (n, dimensions) of the pictures that were not
    and that were trained on; `centers` (classes, dimensions); `accuracy` in training; `steps`.
    """
    keras.utils.set_random_seed(0)
    classes = int(dataset.labels.max()) + 1
    network = small_network(dataset.images.shape[1:], dimensions)
    model = sf.FaceClassifier(network, classes, head="softmax" if margin is None else "angular")
    steps_per_epoch = len(dataset.labels) // BATCH
    steps = epochs * steps_per_epoch
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = None
    if margin is not None:
        annealing = sf.schedules.LambdaAnnealing.for_steps(
            steps, reach=0.8, base=LAMBDA_BASE, minimum=LAMBDA_MINIMUM
        )
        loss = sf.losses.ASoftmaxLoss(margin, annealing)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=5.0)
    model.compile(  # an epoch in one call: such small updates cost less than Keras' bookkeeping
        optimizer, loss=loss, metrics=["accuracy"], steps_per_execution=steps_per_epoch
    )
    order = np.random.default_rng(0).permutation(len(dataset.labels))[: steps_per_epoch * BATCH]
    history = model.fit(
        dataset.images[order], dataset.labels[order], batch_size=BATCH, epochs=epochs, verbose=0
    ).history
    return {
        # Called, not `predict`: that traces once a network, of which TensorFlow warns.
        "held_out": np.asarray(network(dataset.held_out, training=False)),
        "seen": np.asarray(network(dataset.images, training=False)),
        "centers": np.asarray(model.head_layer.kernel).T,
        "accuracy": float(history["accuracy"][-1]),
        "steps": steps,
    }


def pair_angles(
    embeddings: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the angles of all genuine and of all impostor pairs, in degrees.

    >>> genuine, impostor = pair_angles(np.eye(2)[[0, 0, 1]], np.array([0, 0, 1]))
    >>> genuine.tolist(), impostor.tolist()
    ([0.0], [90.0, 90.0])
    """
    vectors = np.asarray(embeddings, np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(units), 1)
    angles = degrees((units @ units.T)[first, second])
    same = labels[first] == labels[second]
    return angles[same], angles[~same]


def measure(
    datasets: Sequence[SmallDataset],
    dimensions: Sequence[int],
    margins: Sequence[int | None],
    epochs: int,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Train all of it; return a row for each (JSON values), and its arrays by name."""
    rows, arrays = [], {}
    for dataset in datasets:
        arrays[f"{dataset.name} labels"] = dataset.held_out_labels
        for size in dimensions:
            for margin in margins:
                began = time.process_time()
                name = f"{dataset.name} {size} {'softmax' if margin is None else f'm{margin}'}"
                found = train_small_network(dataset, size, margin, epochs)
                labels = {"seen": dataset.labels, "held_out": dataset.held_out_labels}
                angles = {part: _angles(found[part], labels[part]) for part in MEASURED_ON}
                rows.append(
                    {
                        "name": name,
                        "data": dataset.about,
                        "dimensions": size,
                        "margin": margin,
                        "steps": found["steps"],
                        "training_accuracy": found["accuracy"],
                        "processor_seconds": round(time.process_time() - began, 2),
                        **angles,
                    }
                )
                arrays[name] = found["held_out"]
                arrays[f"{name} centres"] = found["centers"]
                say(
                    f"{name}: accuracy {100 * found['accuracy']:.1f} %, genuine "
                    f"{angles['held_out']['genuine_angle']:.1f}°, impostor "
                    f"{angles['held_out']['impostor_angle']:.1f}°"
                )
    return rows, arrays


def _angles(embeddings: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Return what is kept of the angles of all pairs, in degrees."""
    genuine, impostor = pair_angles(embeddings, labels)
    return {
        "genuine_angle": float(genuine.mean()),
        "impostor_angle": float(impostor.mean()),
        "genuine_angle_95": float(np.quantile(genuine, 0.95)),
        "impostor_angle_5": float(np.quantile(impostor, 0.05)),
        "angular_fisher_score": float(angular_fisher_score(embeddings, labels)),
    }
