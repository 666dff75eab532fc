"""Whether the workers of a run begin from the same state."""

from __future__ import annotations

import json
import time
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_sphereface.classifier import replicas
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.training.checkpoint import Checkpoint
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.run_folder import facts_of_faces

_LET_OTHERS_END = 3.0  # seconds


def check_agreement(
    strategy: tf.distribute.Strategy,
    recipe: Recipe,
    source: FaceSource,
    state: Checkpoint | None,
) -> None:
    """Raise in every worker of a run where one has another state than the others.

    Each process reads data, recipe and checkpoint by itself. Gradients of different weights would
    be summed without a word. With one process nothing is asked. To be called before the model is
    made: workers that differ in what they make would wait for each other, or stop unheard.

    Args:
        strategy: of the run.
        recipe: of the run.
        source: the faces.
        state: the checkpoint that this worker goes on from; None: it begins.

    Raises:
        ValueError: the workers differ; it says in what.
    """
    with strategy.scope():
        if not replicas.has_several_workers():
            return
    facts = {
        "the update that they go on from": state and state.info["step"],
        "the weights": state and _checksum(state),
        "the faces": facts_of_faces(source),
        "the recipe": recipe.to_dict(),
    }
    sums = [zlib.crc32(json.dumps(fact).encode()) for fact in facts.values()]
    mine = np.array([sums], np.int64)

    @tf.function
    def gather() -> Any:
        context = tf.distribute.get_replica_context
        return strategy.run(lambda: context().all_gather(tf.constant(mine), axis=0))

    found = np.asarray(strategy.experimental_local_results(gather())[0])
    differing = [n for n, column in zip(facts, found.T, strict=True) if len(set(column)) > 1]
    if differing:
        if strategy.extended.should_checkpoint:  # the others end first: they need the chief
            time.sleep(_LET_OTHERS_END)
        raise ValueError(
            f"the workers differ in {', '.join(differing)}: every worker needs the same command, "
            "data and package, and the run's folder on a disk that all of them share"
        )


def _checksum(state: Checkpoint) -> int:
    """Return a CRC-32 of all that a checkpoint holds."""
    value = 0
    for name, array in sorted(state.arrays.items()):
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(name.encode(), value))
    return value
