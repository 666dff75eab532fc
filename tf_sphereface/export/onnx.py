"""ONNX files: float32, float16 and static int8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tf_sphereface.embedder.metadata import EmbedderMetadata, add_onnx_metadata
from tf_sphereface.export.calibration_faces import FaceSource
from tf_sphereface.export.gate import Gate
from tf_sphereface.export.inference_graph import GroupedConvolution, inference_function
from tf_sphereface.export.job import (
    EXPLAINED_FACES,
    FACES_PER_SAMPLE,
    Format,
    Job,
    LayerError,
    rank_layers,
    relative_error,
)
from tf_sphereface.export.onnx_rewrites import (
    PRELU,
    WEIGHTED,
    drop_cast_pairs,
    fold_transpose,
    outside,
    replace_erfc,
    set_batch,
    shorten_prelu,
)
from tf_sphereface.export.options import FileOptions
from tf_sphereface.export.parity import ExportError
from tf_sphereface.export.pipeline import Checks, export
from tf_sphereface.export.quiet import quiet
from tf_sphereface.export.report import ExportReport
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.messages import ProgressCallback
from tf_sphereface.utils.optional import require

OPSET = 18  # the highest that tf2onnx writes


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: Literal["none", "float16", "int8"] | None = None,
    calibration: FaceSource | None = None,
    metadata: EmbedderMetadata | None = None,
    *,
    gate: Gate | None = None,
    progress: ProgressCallback | None = None,
    input_dtype: Literal["float32", "uint8"] = "float32",
    flip_concat: bool = False,
    normalize: bool = False,
    layout: Literal["nhwc", "nchw"] = "nhwc",
    batch: int | None = None,
    explain: bool = False,
    float_layers: int = 0,
) -> ExportReport:
    """Write a model's embedding part as an ONNX file that has been run and compared.

    The file takes `image`, float32 (batch, height, width, 3), normalised as its metadata says (by
    default RGB, `(x - 127.5) / 128`), and returns `embedding`, float32 (batch, embedding_dim), not
    of unit length, both in every kind. Opset 18.

    Arguments, result and errors are those of `export_tflite`, except: `path` must end in `.onnx`;
    `quantize="float16"` halves weights and arithmetic; `"int8"` is static QDQ, int8 weights per
    channel, of 7 bits so that no processor's sums overflow, and uint8 activations by ranges found
    on `calibration`; there is no `"dynamic"`; `layout="nchw"` turns the input's axes to
    (batch, 3, height, width), which saves a transpose.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> report = export_onnx(network, "model.onnx", metadata=sf.embedder.EmbedderMetadata())
    >>> report.cosine_min > 0.9999
    True
    """
    return export(
        _ONNX,
        model,
        path,
        quantize=quantize,
        calibration=calibration,
        metadata=metadata,
        options=FileOptions(input_dtype, flip_concat, normalize, layout, batch),
        checks=Checks(gate, explain, float_layers, progress),
    )


def _to_float(graph: keras.Model, scratch: Path) -> bytes:
    for needed in ("onnx", "onnxruntime"):
        require(needed, extra="export")
    slim = require("onnxslim", extra="export").slim
    converter = require("tf2onnx", extra="export")
    for layer in keras_private.all_layers(graph):
        grouped = isinstance(layer, keras.layers.Conv2D) and layer.groups > 1
        if grouped and not isinstance(layer, GroupedConvolution):
            # Keras compiles it by XLA, and tf2onnx cannot read a compiled function.
            raise ExportError(
                f"layer {layer.name!r} is a convolution in {layer.groups} groups inside a model "
                "within the model, or of channels first, which tf2onnx cannot convert: export "
                "TensorFlow Lite, or make one model of both, with channels last"
            )
    with quiet():
        keras_private.mend_tf2onnx()
        function = inference_function(graph)
        written, _ = converter.convert.from_function(
            function, function.input_signature, opset=OPSET
        )
        replace_erfc(written)
        model = slim(written)
        shorten_prelu(model)
        fold_transpose(model)
    set_batch(model, graph.inputs[0].shape[0])
    return bytes(model.SerializeToString())


def _quantize(content: bytes, job: Job) -> bytes:
    return _to_int8(content, job) if job.kind == "int8" else _to_float16(content, job)


def _to_float16(content: bytes, job: Job) -> bytes:
    onnx = require("onnx", extra="export")
    float16 = require("onnxruntime.transformers.float16", extra="export")
    models = require("onnxruntime.quantization.onnx_model", extra="export")
    model = onnx.load_from_string(content)
    with quiet():
        half = float16.convert_float_to_float16(
            model, keep_io_types=True, node_block_list=float_nodes(model, job)
        )
        drop_cast_pairs(half)
        models.ONNXModel(half).topological_sort()
    return bytes(half.SerializeToString())


def _to_int8(content: bytes, job: Job) -> bytes:
    """Quantise with pairs of QuantizeLinear and DequantizeLinear around every operator.

    The other layout (QOperator) turns these networks to garbage (cosine 0.5) without an error.
    """
    onnx = require("onnx", extra="export")
    quantization = require("onnxruntime.quantization", extra="export")
    shapes = require("onnxruntime.quantization.shape_inference", extra="export")
    source, prepared = job.scratch / "float.onnx", job.scratch / "prepared.onnx"
    quantized = job.scratch / "int8.onnx"
    source.write_bytes(content)
    with quiet():
        # Symbolic shape inference needs sympy and knows nothing more about these graphs.
        # A path, not a model: given a model it looks for weights in files that it deletes.
        shapes.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            BatchReader(job),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Weights of 7 bits. Processors without VNNI add pairs of products in 16 bits, where two
            # of 255 * 127 do not fit: the file would compute something else on them, silently.
            reduce_range=True,
            # A range is the mean of the batches' extremes, as in TensorFlow Lite.
            extra_options={"CalibMovingAverage": True},
            nodes_to_exclude=float_nodes(onnx.load(str(prepared)), job),
        )
    return quantized.read_bytes()


def float_nodes(model: Any, job: Job) -> list[str]:
    """Return the names of the nodes that stay in float32."""
    nodes = list(model.graph.node)
    # A PReLU in int8 rounds four times, and is no faster than in float.
    kept = {node.name for node in nodes if node.name.endswith(PRELU) and job.kind == "int8"}
    if job.options.wraps:
        listed = [(node.op_type in WEIGHTED, node.input, node.output) for node in nodes]
        kept |= {nodes[i].name for i in outside(listed)}
    return sorted(kept | {node.name for node in nodes if set(node.output) & set(job.float_layers)})


class BatchReader:
    """Hands the calibration faces to ONNX Runtime batch by batch (its CalibrationDataReader)."""

    def __init__(self, job: Job) -> None:
        self._job, self._start = job, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None after the last."""
        start, inputs = self._start, self._job.inputs
        if start >= len(inputs):
            return None
        size = inputs.batch or FACES_PER_SAMPLE
        self._start += size
        if self._job.progress is not None:
            self._job.progress(min(start + size, len(inputs)), len(inputs))
        return inputs.take(start, size)


def _explain(float_content: bytes, content: bytes, job: Job) -> list[LayerError]:
    """Return every layer's error, from the activations of both files."""
    onnx = require("onnx", extra="export")
    expected, actual = _activations(float_content, job), _activations(content, job)
    errors = {}
    for name, values in expected.items():
        # What the next operator sees: after quantisation, where the output is quantised.
        seen = actual.get(f"{name}_DequantizeLinear_Output", actual.get(name))
        if seen is not None:
            pairs = zip(seen, values, strict=True)
            errors[name] = float(np.mean([relative_error(a, b) for a, b in pairs]))
    model = onnx.load_from_string(float_content)
    for relu in [node for node in model.graph.node if node.op_type == "Relu"]:
        # The quantiser drops a Relu, whose range does the same; the layer then has its output.
        if relu.output[0] in errors:
            errors.setdefault(relu.input[0], errors[relu.output[0]])
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTED]
    layers = [(node.op_type, node.input[0], node.output[0]) for node in nodes]
    return rank_layers(layers, errors, job.float_layers)


def _activations(content: bytes, job: Job) -> dict[str, list[np.ndarray]]:
    """Return every float tensor's values, batch by batch, with ONNX Runtime's debugging tools."""
    debug = require("onnxruntime.quantization.qdq_loss_debug", extra="export")
    source, augmented = job.scratch / "explained.onnx", job.scratch / "augmented.onnx"
    source.write_bytes(content)
    with quiet():
        debug.modify_model_output_intermediate_tensors(str(source), str(augmented))
        batches = job.inputs.pieces(0, EXPLAINED_FACES)
        return dict(debug.collect_activations(str(augmented), batches))


_ONNX = Format(
    "onnx",
    libraries=("tf2onnx", "onnx", "onnxslim", "onnxruntime"),
    to_float=_to_float,
    quantize=_quantize,
    embed=add_onnx_metadata,
    explain=_explain,
    partitions=lambda content: None,
)
