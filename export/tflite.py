"""TensorFlow Lite files: float32, float16, dynamic range and static int8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface._extras import require
from tf_sphereface.embedder import EmbedderMetadata
from tf_sphereface.export._graph import INPUT_NAME
from tf_sphereface.export._pipeline import KINDS, Format, Inputs, Progress, export
from tf_sphereface.export._quiet import quiet
from tf_sphereface.export.faces import FaceSource
from tf_sphereface.export.gate import Gate
from tf_sphereface.export.metadata import embed_in_tflite
from tf_sphereface.export.report import ExportReport

_FACES_AT_ONCE = 4  # whose extremes are one sample of a tensor's range
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    calibration: FaceSource | None = None,
    metadata: EmbedderMetadata | None = None,
    *,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model's embedding part as a TensorFlow Lite file that has been run and compared.

    The file takes `image`, float32 (n, height, width, 3), normalised as its metadata says (by
    default RGB, `(x - 127.5) / 128`), n free (`resize_tensor_input`), and returns `embedding`,
    float32 (n, embedding_dim), not of unit length. Input and output stay float in every kind.

    Args:
        model: a `FaceClassifier`, a backbone, or a model that ends in `AngularDense`.
        path: where to write; must end in `.tflite`. The metadata goes into the file and into
            `<path>.json`.
        quantize: `"none"` or None for float32; `"float16"`, weights of half the size; `"dynamic"`,
            int8 weights with activations quantised at run time; `"int8"`, static, weights per
            channel, activations by ranges found on `calibration`.
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
    report = export_tflite(model, "model.int8.tflite", quantize="int8", calibration="faces/")
    print(report.size_bytes, report.cosine_mean, report.note)
    ```
    """
    return export(_TFLITE, model, path, quantize, calibration, metadata, gate, progress)


def _to_float(graph: keras.Model, scratch: Path) -> bytes:
    require("ai_edge_litert.interpreter", extra="export")  # without it nothing could be checked
    path = scratch / "float.tflite"
    with quiet():
        graph.export(str(path), format="litert", verbose=False)
    return path.read_bytes()


def _quantize(
    content: bytes, kind: str, inputs: Inputs | None, scratch: Path, progress: Progress | None
) -> bytes:
    quantizers = require("litert_quantizer.quantizer", extra="export")
    flatbuffers = require("ai_edge_litert.tools.flatbuffer_utils", extra="export")
    with quiet():
        quantizer = quantizers.Quantizer(content)
        _set_recipe(quantizer, kind)
    ranges = None
    if kind == "int8" and inputs:
        ranges = _calibrate(content, quantizer.get_quantization_recipe(), inputs, progress)
    with quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        # The quantizer puts the weights behind the flatbuffer, where whoever rewrites the file (to
        # add metadata) loses them; this brings them back inside.
        whole = flatbuffers.read_model_from_bytearray(bytearray(result.quantized_model))
        return bytes(flatbuffers.convert_object_to_bytearray(whole))


def _set_recipe(quantizer: Any, kind: str) -> None:
    recipes = require("litert_quantizer.recipe", extra="export")
    types = require("litert_quantizer.qtyping", extra="export")
    if kind == "dynamic":
        quantizer.load_quantization_recipe(recipes.dynamic_wi8_afp32())
        return
    if kind == "int8":
        quantizer.load_quantization_recipe(recipes.static_wi8_ai8())
        for name in ("INPUT", "OUTPUT"):
            quantizer.update_quantization_recipe(
                ".*", types.TFLOperationName(name), algorithm_key="no_quantize"
            )
        return
    half = types.OpQuantizationConfig(
        weight_tensor_config=types.TensorQuantizationConfig(
            num_bits=16, dtype=types.TensorDataType.FLOAT
        ),
        compute_precision=types.ComputePrecision.FLOAT,
    )
    for name in _WEIGHTED:
        quantizer.update_quantization_recipe(
            ".*", types.TFLOperationName(name), half, algorithm_key="float_casting"
        )


def _calibrate(
    content: bytes, recipe: Any, inputs: Inputs, progress: Progress | None
) -> dict[str, Any]:
    """Return every tensor's range: the extremes of each batch, averaged over the batches.

    Single faces' extremes, averaged, cut off what rarer faces reach; the extremes over all faces
    waste steps on the rarest. Batches of four were best on both families (docs/export.md).
    """
    calibrators = require("litert_quantizer.calibrator", extra="export")
    managers = require("litert_quantizer.recipe_manager", extra="export")
    manager = managers.RecipeManager()
    manager.load_quantization_recipe(recipe)
    with quiet():
        calibrator = calibrators.Calibrator(content, num_threads=1)
    pieces: list[dict[str, Any]] = []
    for start in range(0, len(inputs), _FACES_AT_ONCE):
        piece = inputs[start : start + _FACES_AT_ONCE]
        batch = np.concatenate([face[INPUT_NAME] for face in piece])
        with quiet():
            calibrator.reset_model_qsvs()
            calibrator.calibrate({_SIGNATURE: [{INPUT_NAME: batch}]}, manager)
        pieces.append(calibrator.get_model_qsvs())
        if progress is not None:
            progress(min(start + _FACES_AT_ONCE, len(inputs)), len(inputs))
    return {name: _average([piece[name] for piece in pieces]) for name in pieces[0]}


def _average(ranges: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one tensor's mean `min` and `max`; a tensor without a range (a constant) has none."""
    if not ranges[0]:
        return {}
    return {key: np.mean([each[key] for each in ranges], axis=0) for key in ("min", "max")}


_SIGNATURE = "serving_default"
_TFLITE = Format("tflite", KINDS, _to_float, _quantize, embed_in_tflite)
