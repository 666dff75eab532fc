"""One table of Keras and every file that was made of it, measured in one run."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.export.gate import GateResult
from tf_sphereface.export.options import FileOptions
from tf_sphereface.export.parity import measure_parity, reference_embedder
from tf_sphereface.export.quiet import quiet

_ROUNDS = 30
_MOST_SECONDS = 20.0
_COMPARED = ("size_bytes", "max_abs", "cosine_min", "cosine_mean")
_GATED = ("accuracy", "std_error", "pairs", "decided_differently")


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
        latency_ms: per face on one thread, the least of many calls; None for Keras, whose threads
            are TensorFlow's.
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
        metadata: how the network is fed; None: as is known of the model.
        accuracies: what the gate measured, by file.

    Returns:
        A row for Keras, then one per file.

    Raises:
        ExportError: a file does not run, or returns another shape.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> metadata = sf.embedder.EmbedderMetadata()
    >>> _ = sf.export.export_onnx(network, "model.onnx", metadata=metadata)
    >>> faces = sf.data.synthetic.faces([1, 2], [0, 0], size=(28, 24))
    >>> [row.name for row in parity_table(network, ["model.onnx"], faces, metadata)]
    ['Keras', 'model.onnx']
    """
    network = Embedder.in_memory(model, metadata, float32=True)
    files = [Path(path) for path in paths]
    with quiet():
        opened = {(path, n): load_embedder(path, threads=n) for path in files for n in (1, 2)}
        times = _in_turns({**opened, "keras": network}, faces)
    results = accuracies or {}
    gated: dict[str, Any] = {}
    for result in list(results.values())[:1]:
        gated = {
            "accuracy": result.keras_accuracy,
            "std_error": result.keras_std_error,
            "pairs": result.pairs,
            "decided_differently": 0,
        }
    rows = [ParityRow("Keras", latency_keras_ms=times["keras"], **gated)]
    for path in files:
        reference = _reference(network, opened[path, 1].metadata)
        parity = measure_parity(reference, path, faces, latency=False)
        figures: dict[str, Any] = {name: getattr(parity, name) for name in _COMPARED}
        if path in results:
            figures |= {name: getattr(results[path], name) for name in _GATED}
        figures |= {"latency_ms": times[path, 1], "latency_2_threads_ms": times[path, 2]}
        rows.append(ParityRow(path.name, **figures))
    return rows


def _reference(network: Embedder, file: EmbedderMetadata) -> Embedder:
    """Return Keras with what the file has built in."""
    unit = file.normalized and not (network.metadata.normalized and not file.flip_built_in)
    options = FileOptions(flip_concat=file.flip_built_in, normalize=unit)
    return reference_embedder(network, file, options)


def _in_turns(embedders: dict[Any, Embedder], faces: np.ndarray) -> dict[Any, float]:
    """Return the least milliseconds per face of each, one call of each after the other.

    The least: whatever else the machine runs can only add time.
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
    return {key: 1e3 * min(taken) / batches[key] for key, taken in times.items()}
