"""The report that an export returns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tf_sphereface.export.gate import GateResult
from tf_sphereface.export.job import LayerError
from tf_sphereface.export.parity import Parity

_PARITY_FIGURES = ("cosine_min", "cosine_mean", "max_abs", "latency_ms", "faces")


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """One exported file and what was measured on it before it was renamed into place.

    Attributes:
        path: the file.
        format: `"tflite"` or `"onnx"`.
        quantize: `"none"`, `"float16"`, `"dynamic"` or `"int8"`.
        parity: the file against Keras on the same faces, and its size and latency.
        faces_from: where those faces are from, `"calibration"` or `"synthetic"`.
        gate: what the gate measured, or None.
        partitions: into how many pieces a delegate (XNNPACK) takes the graph of a TensorFlow Lite
            file; None for ONNX.
        float_layers: the names of the layers that were left in float to pass the checks.
        layers: every layer's error, the worst first, where `explain` asked for it.
        left_behind: what the model's metadata say that does not hold for this file, in words.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> metadata = sf.embedder.EmbedderMetadata()
    >>> report = sf.export.export_onnx(network, "model.onnx", metadata=metadata)
    >>> report.measured()["note"]
    'accuracy was not checked'
    """

    path: Path
    format: str
    quantize: str
    parity: Parity
    faces_from: str
    gate: GateResult | None = None
    partitions: int | None = None
    float_layers: tuple[str, ...] = ()
    layers: tuple[LayerError, ...] | None = None
    left_behind: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.parity.size_bytes

    @property
    def cosine_min(self) -> float:
        """Smallest cosine between a face's embedding by Keras and by the file."""
        return self.parity.cosine_min

    @property
    def cosine_mean(self) -> float:
        """Mean of these cosines."""
        return self.parity.cosine_mean

    @property
    def latency_ms(self) -> float:
        """Milliseconds for one face on one thread of this machine, median."""
        return self.parity.latency_ms

    @property
    def accuracy(self) -> GateResult | None:
        """What the gate measured, or None."""
        return self.gate

    @property
    def note(self) -> str:
        """What the file's accuracy was checked with, in words."""
        if self.gate is None:
            return "accuracy was not checked"
        return f"accuracy checked on {self.gate.pairs} pairs"

    def measured(self) -> dict[str, Any]:
        """Return what was measured as JSON values, as the file's own metadata hold it."""
        return {
            **{name: getattr(self.parity, name) for name in _PARITY_FIGURES},
            "faces_from": self.faces_from,
            "accuracy": None if self.gate is None else dataclasses.asdict(self.gate),
            "partitions": self.partitions,
            "float_layers": list(self.float_layers),
            "note": self.note,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        layers = self.layers
        return {
            "path": str(self.path),
            "format": self.format,
            "quantize": self.quantize,
            "size_bytes": self.size_bytes,
            **self.measured(),
            "left_behind": list(self.left_behind),
            "layers": None if layers is None else [dataclasses.asdict(each) for each in layers],
        }
