"""What is read from TensorFlow Lite files: their operators, partitions and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_sphereface._extras import require
from tf_sphereface.export._job import Job, LayerError, rank_layers, relative_error
from tf_sphereface.export._onnx_graph import outside
from tf_sphereface.export._quiet import quiet

SIGNATURE = "serving_default"
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_EXPLAINED = 8  # faces whose activations are compared


def partitions(content: bytes) -> int | None:
    """Return how many pieces of the graph XNNPACK takes; one is best."""
    interpreters = require("ai_edge_litert.interpreter", extra="export")
    with quiet():
        interpreter = interpreters.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        # The replaced operators stay in the list; each piece adds one that is called DELEGATE.
        operators = interpreter._get_ops_details()
    return sum(operator["op_name"] == "DELEGATE" for operator in operators)


def names_outside(content: bytes) -> set[str]:
    """Return the outputs' names of operators before the first and behind the last weighted one."""
    operators = _operators(content)
    listed = [(name in WEIGHTED, inputs, outputs) for name, inputs, outputs in operators]
    found = outside(listed)
    return {name for i in found for name in operators[i][2]}


def explain(float_content: bytes, content: bytes, job: Job) -> list[LayerError]:
    """Return every layer's error, by the quantiser's own comparison of two files."""
    validator = require("litert_quantizer.model_validator", extra="export")
    metrics = require("litert_quantizer.utils.validation_utils", extra="export")
    if job.inputs is None:
        return []
    data = {SIGNATURE: list(job.inputs.pieces(0, _EXPLAINED))}
    with quiet():
        compared = validator.compare_model(
            float_content,
            content,
            data,
            [metrics.ValidationErrorMetric.MSE],  # names the column, the function is ours
            [relative_error],
            use_xnnpack=False,
            num_threads=1,
        )
    errors = {
        name: values[metrics.ValidationErrorMetric.MSE.value]
        for name, values in compared.get_all_tensor_results().items()
        if np.isfinite(values[metrics.ValidationErrorMetric.MSE.value])
    }
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
        operators: list[Any] = interpreter._get_ops_details()
    return [
        (
            str(operator["op_name"]),
            [names[i] for i in operator["inputs"] if i in names],
            [names[i] for i in operator["outputs"] if i in names],
        )
        for operator in operators
    ]
