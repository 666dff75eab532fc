"""Whether the graph in an ONNX or TensorFlow Lite file begins by normalising its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tf_sphereface.utils.optional import require

# An operation as (its kind, its name, its inputs, its outputs, whether one input is a constant).
_Operation = tuple[str, str, list[str], list[str], bool]

_NORMALIZING = {"sub", "div", "mul", "add"}
_PASSING = {"cast", "identity", "transpose", "pad", "padv2", "slice", "strided_slice", "gather"}
_PASSING |= {"reverse_v2", "reshape", "quantize", "dequantize", "quantizelinear"}
_PASSING |= {"dequantizelinear", "resize", "resize_bilinear"}


def own_normalization(path: Path) -> str | None:
    """Return the operation with which a `.tflite` or `.onnx` graph normalises its pixels itself.

    That is a sum, difference, product or quotient of the image and a constant, perhaps behind
    operations that leave the values as they are. None where there is none.
    """
    operations = _tflite(path) if path.suffix.lower() == ".tflite" else _onnx(path)
    (image,) = next(operations)[3]
    images = {image}
    for kind, name, inputs, outputs, constant in operations:  # in the order of execution
        if not images.intersection(inputs):
            continue
        if kind in _NORMALIZING and constant:
            return f"{kind.capitalize()} {name!r}"
        if kind in _PASSING:
            images.update(outputs)
    return None


def _onnx(path: Path) -> Iterator[_Operation]:
    """Yield the input as an operation, then the operations."""
    graph = require("onnx", extra="export").load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    yield "input", "", [], [each.name for each in graph.input if each.name not in constants], False
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
        name = node.name or node.output[0]
        constant = any(each in constants for each in node.input)
        yield node.op_type.lower(), name, list(node.input), list(node.output), constant


def _tflite(path: Path) -> Iterator[_Operation]:
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    kinds = {v: k.lower() for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    yield "input", "", [], [str(index) for index in graph.inputs], False
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
        buffers = [model.buffers[graph.tensors[i].buffer].data for i in operator.inputs if i >= 0]
        constant = any(data is not None and len(data) for data in buffers)
        name = graph.tensors[operator.outputs[0]].name
        name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        inputs, outputs = map(str, operator.inputs), map(str, operator.outputs)
        yield kind, name, list(inputs), list(outputs), constant
