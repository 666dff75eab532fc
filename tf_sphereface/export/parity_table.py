"""One table: Keras against every file that was made of it, measured in one run."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface.embedder.embedder import (
    Embedder,
    EmbedderMetadata,
    as_backbone,
    in_float32,
    load_embedder,
)
from tf_sphereface.embedder.runtimes import KerasRunner
from tf_sphereface.export.gate import GateResult
from tf_sphereface.export.options import Options
from tf_sphereface.export.parity import compare, reference_embedder
from tf_sphereface.export.quiet import quiet

_ROUNDS = 30
_MOST_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class ParityRow:
    """Keras, or one file. What could not be measured is None.

    Attributes:
        name: of the file; `"Keras"` in the first row.
        size_bytes: of the file.
        max_abs: largest absolute difference from Keras of an embedding's element.
        cosine_min: smallest cosine with Keras.
        cosine_mean: mean cosine with Keras.
        accuracy: on the gate's pairs, a fraction.
        std_error: its standard error.
        pairs: how many.
        decided_differently: how many of them Keras decides differently.
        latency_ms: a face on one thread, the least of many calls; None for Keras, whose threads are
            TensorFlow's.
        latency_2_threads_ms: on two threads.
        latency_keras_ms: Keras' own, on all its threads; None for files.
    """

    name: str
    size_bytes: int | None = None
    max_abs: float = 0.0
    cosine_min: float = 1.0
    cosine_mean: float = 1.0
    accuracy: float | None = None
    std_error: float | None = None
    pairs: int | None = None
    decided_differently: int | None = None
    latency_ms: float | None = None
    latency_2_threads_ms: float | None = None
    latency_keras_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dataclasses.asdict(self)


def parity_table(
    model: keras.Model,
    paths: Sequence[str | os.PathLike[str]],
    faces: np.ndarray,
    metadata: EmbedderMetadata | None = None,
    accuracies: Mapping[Path, GateResult] | None = None,
) -> list[ParityRow]:
    """Compare files with the network they were made of, and with each other.

    All files are timed in turns, so that a busy moment of the machine falls on all of them alike.

    Args:
        model: what was exported.
        paths: the files.
        faces: uint8 RGB, (n, height, width, 3), n at least 1.
        metadata: how the network is fed; None: the project's defaults.
        accuracies: what the gate measured, by file.

    Returns:
        A row for Keras, then one a file.

    Raises:
        ExportError: a file does not run, or returns another shape.

    Example:

    ```python
    for row in parity_table(model, ["m.tflite", "m.int8.tflite"], faces):
        print(row.name, row.cosine_min, row.latency_ms)
    ```
    """
    backbone = in_float32(as_backbone(model))
    network = metadata or load_embedder(backbone).metadata
    files = [Path(path) for path in paths]
    opened = {(path, n): load_embedder(path, threads=n) for path in files for n in (1, 2)}
    own = Embedder(KerasRunner(backbone, network), network, "keras", None, batch_size=64)
    with quiet():
        times = _in_turns({**opened, "keras": own}, faces)
    known = accuracies or {}
    first = next(iter(known.values()), None)
    rows = [
        ParityRow(
            "Keras",
            accuracy=None if first is None else first.keras_accuracy,
            std_error=None if first is None else first.keras_std_error,
            pairs=None if first is None else first.pairs,
            decided_differently=None if first is None else 0,
            latency_keras_ms=times["keras"],
        )
    ]
    for path in files:
        reference = _reference(backbone, network, opened[path, 1].metadata)
        parity = compare(reference, path, faces, latency=False)
        gate = known.get(path)
        rows.append(
            ParityRow(
                path.name,
                size_bytes=parity.size_bytes,
                max_abs=parity.max_abs,
                cosine_min=parity.cosine_min,
                cosine_mean=parity.cosine_mean,
                accuracy=None if gate is None else gate.accuracy,
                std_error=None if gate is None else gate.std_error,
                pairs=None if gate is None else gate.pairs,
                decided_differently=None if gate is None else gate.decided_differently,
                latency_ms=times[path, 1],
                latency_2_threads_ms=times[path, 2],
            )
        )
    return rows


def _reference(
    backbone: keras.Model, network: EmbedderMetadata, file: EmbedderMetadata
) -> Embedder:
    """Return Keras with what the file has built in."""
    unit = file.normalized and not (network.normalized and not file.flip_built_in)
    options = Options(flip_concat=file.flip_built_in, normalize=unit)
    return reference_embedder(backbone, network, file, options)


def _in_turns(embedders: dict[Any, Embedder], faces: np.ndarray) -> dict[Any, float]:
    """Return the least milliseconds a face of each, one call of each after the other.

    The least, for whatever else runs on the machine only adds.
    """
    batches = {key: e.metadata.batch or 1 for key, e in embedders.items()}
    inputs = {key: np.repeat(faces[:1], batch, axis=0) for key, batch in batches.items()}
    times: dict[Any, list[float]] = {key: [] for key in embedders}
    start = time.perf_counter()
    for i in range(_ROUNDS + 2):
        for key, embedder in embedders.items():
            begin = time.perf_counter()
            embedder(inputs[key])
            if i >= 2:  # the first two warm up
                times[key].append(time.perf_counter() - begin)
        if i >= 4 and time.perf_counter() - start > _MOST_SECONDS:
            break
    return {key: 1e3 * min(found) / batches[key] for key, found in times.items()}
