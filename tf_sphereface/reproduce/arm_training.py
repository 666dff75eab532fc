"""Training and verification of one arm: from a recipe to all that is kept of it."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tf_sphereface import training
from tf_sphereface.embedder import load_embedder
from tf_sphereface.reproduce.faces import Faces
from tf_sphereface.training.recipes import Recipe

WINDOW = 10  # updates that a point of the training curve is the mean of


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What is kept of one arm: JSON values, and for each way of scoring the pairs two arrays.

    The arrays are the scores (`scores WAY`), and which pairs were decided rightly (`correct WAY`).
    """

    figures: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class TrainingLog(keras.callbacks.Callback):
    """Keeps the loss of every few updates, with lambda and the margin that it makes; times updates.

    A point is `[update, mean loss of the last updates, lambda, effective margin]`; the last two are
    None for a loss without lambda.
    """

    def __init__(self, moved: Callable[[int], None] | None) -> None:
        super().__init__()
        self.points: list[list[float | None]] = []
        self.seconds: list[float] = []
        self._moved = moved

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start again: Keras' loss is the mean over the epoch so far."""
        self._sums = (0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the time, and a point at the end of each window."""
        self.seconds.append(time.perf_counter() - self._began)
        if self._moved is not None:
            self._moved(1)
        if len(self.seconds) % WINDOW or logs is None:
            return
        count, total = batch + 1, float(logs["loss"]) * (batch + 1)
        recent = (total - self._sums[1]) / (count - self._sums[0])
        self._sums = (count, total)
        self._keep(recent, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keep a point of a run that is shorter than a window."""
        if not self.points and logs:
            self._keep(float(logs["loss"]), logs)

    def _keep(self, loss: float, logs: dict[str, Any]) -> None:
        lambda_, margin = (
            float(logs[name]) if name in logs else None for name in ("lambda", "effective_margin")
        )
        self.points.append([len(self.seconds), loss, lambda_, margin])


def run_arm(recipe: Recipe, faces: Faces, moved: Callable[[int], None] | None = None) -> Outcome:
    """Train a network by a recipe, and verify it on the pairs.

    `moved` is called with the number of updates since the last call. A run whose loss or embeddings
    are no longer finite has `"diverged": True` and no figures of verification.
    """
    if faces.size != recipe.input_size:
        raise ValueError(
            f"faces must have the recipe's size {recipe.input_size}. Received: {faces.size}"
        )
    began, began_cpu = time.monotonic(), time.process_time()
    log = TrainingLog(moved)
    network, history = training.train_recipe(recipe, (faces.images, faces.labels), [log])
    trained = time.monotonic()
    rows, arrays = _verify(network, faces) if np.isfinite(history["loss"][-1]) else ({}, {})
    del network
    gc.collect()
    return Outcome(
        {
            "recipe": recipe.to_dict(),
            "faces": faces.about,
            "diverged": not rows,
            "verification": rows,
            "training": {"epochs": history, "curve": log.points},
            "seconds": {
                "training": round(trained - began, 2),
                "verification": round(time.monotonic() - trained, 2),
                "processor": round(time.process_time() - began_cpu, 2),
                "step": round(float(np.median(log.seconds)), 5),
            },
        },
        arrays,
    )


def _verify(
    network: keras.Model, faces: Faces
) -> tuple[dict[str, dict[str, Any]], dict[str, NDArray[Any]]]:
    """Score the pairs in the four ways; nothing where an embedding has no angle."""
    from tf_sphereface.eval.scoring.score_pairs import verify_embeddings

    embedder = load_embedder(network)
    plain = embedder(faces.test_images)
    mirrored = embedder(np.ascontiguousarray(faces.test_images[:, :, ::-1]))
    lengths = np.linalg.norm(np.concatenate([plain, mirrored]), axis=1)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        return {}, {}
    pairs = (faces.left, faces.right, faces.is_same, faces.folds)
    table = verify_embeddings(plain, mirrored, *pairs, labels=faces.people).table
    rows: dict[str, dict[str, Any]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for (flip, mean), result in table.items():
        key = f"{flip}-{mean}"
        rows[key] = {
            "accuracy": result.accuracy,
            "std_error": result.std_error,
            "fold_accuracies": [round(float(v), 6) for v in result.fold_accuracies],
            "auc": result.auc,
            "eer": result.eer,
            "genuine_angle": result.genuine_angle,
            "impostor_angle": result.impostor_angle,
            "angular_fisher_score": result.angular_fisher_score,
        }
        arrays[f"scores {key}"] = result.scores.astype("float32")
        arrays[f"correct {key}"] = result.correct
    rows["flip-plain"]["embedding_length"] = float(np.median(np.linalg.norm(plain, axis=1)))
    return rows, arrays
