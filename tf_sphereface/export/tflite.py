"""TensorFlow Lite files: float32, float16, dynamic range and static int8."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.embedder.metadata import EmbedderMetadata, add_tflite_metadata
from tf_sphereface.export.calibration_faces import FaceSource
from tf_sphereface.export.gate import Gate
from tf_sphereface.export.inference_graph import inference_function
from tf_sphereface.export.job import (
    EXPLAINED_FACES,
    FACES_PER_SAMPLE,
    Format,
    Job,
    LayerError,
    rank_layers,
    relative_error,
)
from tf_sphereface.export.onnx_rewrites import outside
from tf_sphereface.export.options import FileOptions
from tf_sphereface.export.pipeline import Checks, export
from tf_sphereface.export.quiet import quiet
from tf_sphereface.export.report import ExportReport
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.messages import ProgressCallback
from tf_sphereface.utils.optional import require

SIGNATURE = "serving_default"
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MOST_DEPRECATED_CODE = 127  # of the schema's one-byte field, which stands for all above as well


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: Literal["none", "float16", "dynamic", "int8"] | None = None,
    calibration: FaceSource | None = None,
    metadata: EmbedderMetadata | None = None,
    *,
    gate: Gate | None = None,
    progress: ProgressCallback | None = None,
    input_dtype: Literal["float32", "uint8"] = "float32",
    flip_concat: bool = False,
    normalize: bool = False,
    batch: int | None = None,
    explain: bool = False,
    float_layers: int = 0,
) -> ExportReport:
    """Write a model's embedding part as a TensorFlow Lite file that has been run and compared.

    The report holds what was measured on it.
    The file takes `image`, float32 (n, height, width, 3), normalised as its metadata says (by
    default RGB, `(x - 127.5) / 128`), n free (`resize_tensor_input`), and returns `embedding`,
    float32 (n, embedding_dim), not of unit length. Input and output stay float in every kind, and
    what the options below build in is computed in float.

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
        metadata: what to say about the network; None: what is known of the model.
        gate: checks accuracy on pairs of faces before the file appears.
        progress: called with (faces done, faces in all) during calibration.
        input_dtype: `"uint8"` builds channel order and normalisation in: RGB pixels go in.
        flip_concat: build the mirror image in: the output is both embeddings, (n, 2 embedding_dim).
        normalize: build in the division by the L2 norm: the output (both halves together) has
            unit length.
        batch: how many faces the file takes at once; None: any number.
        explain: measure every layer's error (int8); the worst ones come first in `report.layers`.
        float_layers: how many of the worst layers may stay in float where the checks or the gate
            would fail otherwise (int8): one, then two, four, ... are tried.

    Raises:
        ExportError: the converter failed, or the file did not compute what Keras computes; the path
            is as it was before.
        ValueError: an unknown kind, another suffix, another kind of model, no or wrong calibration
            faces.
        ImportError: the `export` extra is not installed.
        OSError: the folder cannot be written.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> report = export_tflite(network, "model.tflite", metadata=sf.embedder.EmbedderMetadata())
    >>> report.cosine_min > 0.9999
    True
    """
    return export(
        _TFLITE,
        model,
        path,
        quantize=quantize,
        calibration=calibration,
        metadata=metadata,
        options=FileOptions(input_dtype, flip_concat, normalize, batch=batch),
        checks=Checks(gate, explain, float_layers, progress),
    )


def _to_float(graph: keras.Model, scratch: Path) -> bytes:
    require("ai_edge_litert.interpreter", extra="export")  # without it nothing could be checked
    folder, module = str(scratch / "saved_model"), tf.Module()
    with quiet():
        # A module of variables alone: to save a Keras model, which looks through every object of
        # it, takes longer than the conversion.
        module.weights = [variable.value for variable in graph.variables]
        module.serve = inference_function(graph)
        tf.saved_model.save(module, folder, signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        sets = tf.lite.OpsSet
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
        return bytes(converter.convert())


def _quantize(content: bytes, job: Job) -> bytes:
    quantizers = require("litert_quantizer.quantizer", extra="export")
    flatbuffers = require("ai_edge_litert.tools.flatbuffer_utils", extra="export")
    with quiet():
        quantizer = quantizers.Quantizer(content)
        set_recipe(quantizer, content, job)
    ranges = None
    if job.kind == "int8":
        ranges = activation_ranges(content, quantizer.get_quantization_recipe(), job)
    with quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        # The quantizer puts the weights behind the flatbuffer, where whoever rewrites the file (to
        # add metadata) loses them; this brings them back inside.
        whole = flatbuffers.read_model_from_bytearray(bytearray(result.quantized_model))
        for code in whole.operatorCodes:
            # The quantizer leaves it 0 in the operators that it adds. Older readers (OpenVINO,
            # tf2onnx) look here first, and would take a QUANTIZE for an ADD.
            code.deprecatedBuiltinCode = min(code.builtinCode, MOST_DEPRECATED_CODE)
        return bytes(flatbuffers.convert_object_to_bytearray(whole))


def set_recipe(quantizer: Any, content: bytes, job: Job) -> None:
    """Tell a `litert_quantizer` quantizer of a float32 file what is quantized, and how."""
    recipes = require("litert_quantizer.recipe", extra="export")
    types = require("litert_quantizer.qtyping", extra="export")
    if job.kind == "float16":
        half = types.OpQuantizationConfig(
            weight_tensor_config=types.TensorQuantizationConfig(
                num_bits=16, dtype=types.TensorDataType.FLOAT
            ),
            compute_precision=types.ComputePrecision.FLOAT,
        )
        for name in WEIGHTED:
            quantizer.update_quantization_recipe(
                ".*", types.TFLOperationName(name), half, algorithm_key="float_casting"
            )
        return
    if job.kind == "dynamic":
        quantizer.load_quantization_recipe(recipes.dynamic_wi8_afp32())
    else:
        quantizer.load_quantization_recipe(recipes.static_wi8_ai8())
        for name in ("INPUT", "OUTPUT"):
            quantizer.update_quantization_recipe(
                ".*", types.TFLOperationName(name), algorithm_key="no_quantize"
            )
    kept = set(job.float_layers)
    if job.options.wraps:
        kept |= _names_outside(content)
    for name in sorted(kept):  # the quantiser calls an operator after its outputs
        quantizer.update_quantization_recipe(
            f"^{re.escape(name)};$",
            types.TFLOperationName.ALL_SUPPORTED,
            algorithm_key="no_quantize",
        )


def activation_ranges(
    content: bytes, recipe: Any, job: Job, batch: int = FACES_PER_SAMPLE
) -> dict[str, Any]:
    """Return every tensor's range: the extremes of each batch, averaged over the batches.

    Single faces' extremes, averaged, cut off what rarer faces reach; the extremes over all faces
    waste steps on the rarest. Batches of four were best on both families (docs/results/export.md).
    """
    calibrators = require("litert_quantizer.calibrator", extra="export")
    managers = require("litert_quantizer.recipe_manager", extra="export")
    utils = require("litert_quantizer.utils.qsv_utils", extra="export")
    manager = managers.RecipeManager()
    manager.load_quantization_recipe(recipe)
    with quiet():
        # A file of a fixed batch takes several calls for four faces: their extremes are joined.
        calibrator = calibrators.Calibrator(
            content, num_threads=1, qsv_update_func=utils.min_max_update
        )
    pieces: list[dict[str, Any]] = []
    faces = len(job.inputs)
    for start in range(0, faces, batch):
        batches = list(job.inputs.pieces(start, batch))
        with quiet():
            calibrator.reset_model_qsvs()
            calibrator.calibrate({SIGNATURE: batches}, manager)
        pieces.append(calibrator.get_model_qsvs())
        if job.progress is not None:
            job.progress(min(start + batch, faces), faces)
    return {name: _average([piece[name] for piece in pieces]) for name in pieces[0]}


def _average(ranges: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one tensor's mean `min` and `max`; a tensor without a range (a constant) has none."""
    if not ranges[0]:
        return {}
    return {key: np.mean([each[key] for each in ranges], axis=0) for key in ("min", "max")}


def _partitions(content: bytes) -> int | None:
    """Return how many pieces of the graph XNNPACK takes; one is best."""
    interpreters = require("ai_edge_litert.interpreter", extra="export")
    with quiet():
        interpreter = interpreters.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        # The replaced operators stay in the list; each piece adds one that is called DELEGATE.
        operators = keras_private.operators(interpreter)
    return sum(operator["op_name"] == "DELEGATE" for operator in operators)


def _names_outside(content: bytes) -> set[str]:
    """Return the outputs' names of operators before the first and behind the last weighted one."""
    operators = _operators(content)
    listed = [(name in WEIGHTED, inputs, outputs) for name, inputs, outputs in operators]
    return {name for i in outside(listed) for name in listed[i][2]}


def _explain(float_content: bytes, content: bytes, job: Job) -> list[LayerError]:
    """Return every layer's error, by the quantiser's own comparison of two files."""
    validator = require("litert_quantizer.model_validator", extra="export")
    metrics = require("litert_quantizer.utils.validation_utils", extra="export")
    mse = metrics.ValidationErrorMetric.MSE  # names the column, the function is ours
    data = {SIGNATURE: list(job.inputs.pieces(0, EXPLAINED_FACES))}
    with quiet():
        compared = validator.compare_model(
            float_content,
            content,
            data,
            [mse],
            [relative_error],
            use_xnnpack=False,
            num_threads=1,
        )
    errors = {name: each[mse.value] for name, each in compared.get_all_tensor_results().items()}
    errors = {name: value for name, value in errors.items() if np.isfinite(value)}
    layers = [
        (operator, inputs[0], outputs[0])
        for operator, inputs, outputs in _operators(float_content)
        if operator in WEIGHTED
    ]
    return rank_layers(layers, errors, job.float_layers)


def _operators(content: bytes) -> list[tuple[str, list[str], list[str]]]:
    """Return name, inputs' names and outputs' names of every operator, in order."""
    interpreters = require("ai_edge_litert.interpreter", extra="export")
    with quiet():
        interpreter = interpreters.Interpreter(
            model_content=content,
            experimental_op_resolver_type=interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        names = {d["index"]: d["name"] for d in interpreter.get_tensor_details()}
        operators: list[Any] = keras_private.operators(interpreter)
    return [
        (
            str(operator["op_name"]),
            [names[i] for i in operator["inputs"] if i in names],
            [names[i] for i in operator["outputs"] if i in names],
        )
        for operator in operators
    ]


_TFLITE = Format(
    "tflite",
    libraries=("tensorflow", "litert-quantizer", "ai-edge-litert"),
    to_float=_to_float,
    quantize=_quantize,
    embed=add_tflite_metadata,
    explain=_explain,
    partitions=_partitions,
)
