"""ONNX files: float32, float16 and static int8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface._extras import require
from tf_sphereface.embedder import EmbedderMetadata
from tf_sphereface.export._pipeline import Format, Inputs, Progress, export
from tf_sphereface.export._quiet import quiet
from tf_sphereface.export.faces import FaceSource
from tf_sphereface.export.gate import Gate
from tf_sphereface.export.metadata import embed_in_onnx
from tf_sphereface.export.report import ExportReport

OPSET = 18  # the highest that tf2onnx writes
_BATCH = "batch"


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    calibration: FaceSource | None = None,
    metadata: EmbedderMetadata | None = None,
    *,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model's embedding part as an ONNX file that has been run and compared.

    The file takes `image`, float32 (batch, height, width, 3), normalised as its metadata says (by
    default RGB, `(x - 127.5) / 128`), and returns `embedding`, float32 (batch, embedding_dim), not
    of unit length, both in every kind. Opset 18.

    Args:
        model: a `FaceClassifier`, a backbone, or a model that ends in `AngularDense`.
        path: where to write; must end in `.onnx`. The metadata goes into the file and into
            `<path>.json`.
        quantize: `"none"` or None for float32; `"float16"`, weights and arithmetic of half the
            size; `"int8"`, static QDQ: int8 weights per channel, uint8 activations by ranges found
            on `calibration`.
        calibration: aligned faces: uint8 RGB (n, height, width, 3), a folder of images, or an
            iterable of such batches. At most 256 are used. int8 needs them; for the other kinds
            they replace the synthetic faces of the comparison.
        metadata: what to say about the network; None: the project's defaults.
        gate: checks accuracy on pairs of faces before the file appears.
        progress: called with (faces done, faces in all) during calibration.

    Returns:
        What was measured on the file.

    Raises:
        ExportError: the converter failed, or the file did not compute what Keras computes; the path
            is as it was before.
        ValueError: an unknown kind, another suffix, another kind of model, no or wrong calibration
            faces.
        ImportError: the `export` extra is not installed.
        OSError: the folder cannot be written.

    Example:

    ```python
    report = export_onnx(model, "model.onnx")
    print(report.size_bytes, report.cosine_mean, report.note)
    ```
    """
    return export(_ONNX, model, path, quantize, calibration, metadata, gate, progress)


def _to_float(graph: keras.Model, scratch: Path) -> bytes:
    onnx = require("onnx", extra="export")
    slim = require("onnxslim", extra="export").slim
    for needed in ("tf2onnx", "onnxruntime"):
        require(needed, extra="export")
    path = scratch / "float.onnx"
    with quiet():
        graph.export(str(path), format="onnx", verbose=False, opset_version=OPSET)
        model = slim(onnx.load(str(path)))
    _name_batch(model)
    return bytes(model.SerializeToString())


def _quantize(
    content: bytes, kind: str, inputs: Inputs | None, scratch: Path, progress: Progress | None
) -> bytes:
    if kind == "int8" and inputs:
        return _to_int8(content, inputs, scratch, progress)
    return _to_float16(content)


def _name_batch(model: Any) -> None:
    """Call the free first dimension `batch`; the converter numbers it anew at every run."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH


def _to_float16(content: bytes) -> bytes:
    onnx = require("onnx", extra="export")
    float16 = require("onnxruntime.transformers.float16", extra="export")
    with quiet():
        model = float16.convert_float_to_float16(onnx.load_from_string(content), keep_io_types=True)
    return bytes(model.SerializeToString())


def _to_int8(content: bytes, inputs: Inputs, scratch: Path, progress: Progress | None) -> bytes:
    """Quantise with pairs of QuantizeLinear and DequantizeLinear around every operator.

    The other layout (QOperator) turns these networks to garbage (cosine 0.5) without an error.
    """
    quantization = require("onnxruntime.quantization", extra="export")
    shapes = require("onnxruntime.quantization.shape_inference", extra="export")
    source, prepared = scratch / "float.onnx", scratch / "prepared.onnx"
    quantized = scratch / "int8.onnx"
    source.write_bytes(content)
    with quiet():
        # Symbolic shape inference needs sympy and knows nothing more about these graphs.
        # A path, not a model: given a model it looks for weights in files that it deletes.
        shapes.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            _Reader(inputs, progress),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
    return quantized.read_bytes()


class _Reader:
    """Hands the calibration faces to ONNX Runtime one by one (its CalibrationDataReader)."""

    def __init__(self, inputs: Inputs, progress: Progress | None) -> None:
        self._inputs, self._progress, self._next = inputs, progress, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next face, or None after the last."""
        if self._next >= len(self._inputs):
            return None
        self._next += 1
        if self._progress is not None:
            self._progress(self._next, len(self._inputs))
        return self._inputs[self._next - 1]

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        face = self.get_next()
        if face is None:
            raise StopIteration
        return face


_ONNX = Format("onnx", ("none", "float16", "int8"), _to_float, _quantize, embed_in_onnx)
