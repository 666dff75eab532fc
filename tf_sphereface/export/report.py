"""What an export returns, and the error it ends with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tf_sphereface.export.gate import GateResult
from tf_sphereface.export.job import LayerError
from tf_sphereface.export.parity import ExportError, Parity

__all__ = ["ExportError", "ExportReport"]

NOT_CHECKED = "accuracy was not checked"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """One exported file and what was measured on it before it was renamed into place.

    Attributes:
        path: the file.
        format: `"tflite"` or `"onnx"`.
        quantize: `"none"`, `"float16"`, `"dynamic"` or `"int8"`.
        size_bytes: size of the file.
        cosine_min: smallest cosine between a face's embedding by Keras and by the file.
        cosine_mean: mean of these cosines.
        max_abs: largest absolute difference of an embedding's element.
        latency_ms: one face, one thread, median, in milliseconds, on this machine.
        faces: how many faces were compared.
        faces_from: `"calibration"` or `"synthetic"`.
        accuracy: what the gate measured, or None.
        partitions: into how many pieces a delegate (XNNPACK) takes the graph of a TensorFlow Lite
            file; None for ONNX.
        float_layers: the names of the layers that were left in float to pass the checks.
        layers: every layer's error, the worst first, where `explain` asked for it.
    """

    path: Path
    format: str
    quantize: str
    size_bytes: int
    cosine_min: float
    cosine_mean: float
    max_abs: float
    latency_ms: float
    faces: int
    faces_from: str
    accuracy: GateResult | None = None
    partitions: int | None = None
    float_layers: tuple[str, ...] = ()
    layers: tuple[LayerError, ...] | None = None

    @property
    def note(self) -> str:
        """What the file's accuracy was checked with, in words."""
        if self.accuracy is None:
            return NOT_CHECKED
        return f"accuracy checked on {self.accuracy.pairs} pairs"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = dataclasses.asdict(self)
        values["float_layers"] = list(self.float_layers)
        return {**values, "path": str(self.path), "note": self.note}

    @classmethod
    def from_parity(
        cls,
        parity: Parity,
        *,
        path: Path,
        format: str,
        quantize: str,
        faces_from: str,
        accuracy: GateResult | None,
        partitions: int | None = None,
        float_layers: tuple[str, ...] = (),
        layers: tuple[LayerError, ...] | None = None,
    ) -> ExportReport:
        """Combine a file's name and kind with what was measured on it."""
        return cls(
            path=path,
            format=format,
            quantize=quantize,
            size_bytes=parity.size_bytes,
            cosine_min=parity.cosine_min,
            cosine_mean=parity.cosine_mean,
            max_abs=parity.max_abs,
            latency_ms=parity.latency_ms,
            faces=parity.faces,
            faces_from=faces_from,
            accuracy=accuracy,
            partitions=partitions,
            float_layers=float_layers,
            layers=layers,
        )
