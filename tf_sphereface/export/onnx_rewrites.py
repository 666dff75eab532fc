"""Rewrites of a converted ONNX graph: a shorter PReLU, no transpose before the matrix.

Both passes rewrite a pattern only where it is found whole; anything else stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tf_sphereface.utils.optional import require

PRELU = "/prelu"  # marks the operators that are a PReLU together
WEIGHTED = ("Conv", "MatMul", "Gemm", "ConvTranspose")


def set_batch(model: Any, batch: int | None) -> None:
    """Fix the first dimension, or call it `batch`; the converter numbers it anew at every run."""
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        if batch is None:
            first.dim_param = "batch"
        else:
            first.dim_value = batch


def replace_erfc(model: Any) -> None:
    """Write `erfc(x)`, as of an exact GELU, which ONNX does not have, as `1 - erf(x)`."""
    onnx = require("onnx", extra="export")
    nodes = model.graph.node
    for node in [node for node in nodes if node.op_type == "Erfc"]:
        one = onnx.numpy_helper.from_array(np.ones((), np.float32), f"{node.name}/one")
        model.graph.initializer.append(one)
        between = f"{node.output[0]}/erf"
        inner = onnx.helper.make_node("Erf", node.input, [between], f"{node.name}/erf")
        outer = onnx.helper.make_node("Sub", [one.name, between], node.output, node.name)
        place = list(nodes).index(node)
        nodes.remove(node)
        nodes.insert(place, outer)
        nodes.insert(place, inner)


def shorten_prelu(model: Any) -> None:
    """Turn `relu(x) + relu(-x) * c`, as Keras writes a PReLU, into `relu(x) + min(x, 0) * -c`.

    One operator less. ONNX has PRelu itself, but ONNX Runtime's takes so long that MobileFaceNet
    needs 1.6 times the time (docs/results/export.md). The operators' names get `PRELU` behind them.
    """
    onnx = require("onnx", extra="export")
    graph = _Graph(model)
    nodes = model.graph.node
    zero = onnx.numpy_helper.from_array(np.zeros((), np.float32), "prelu_zero")
    for add in [node for node in nodes if node.op_type == "Add"]:
        found = graph.prelu_into(add)
        if found is None:
            continue
        source, factor, (positive, product, negative, minus) = found
        slope = onnx.numpy_helper.from_array(np.ascontiguousarray(-factor), f"{add.name}/slope")
        model.graph.initializer.append(slope)
        low = onnx.helper.make_node("Min", [source, zero.name], negative.output, negative.name)
        del product.input[:]
        product.input.extend([low.output[0], slope.name])
        nodes.insert(list(nodes).index(negative), low)
        nodes.remove(negative)
        nodes.remove(minus)
        for node in (positive, low, product, add):
            node.name += PRELU
    model.graph.initializer.append(zero)
    _drop_unused(model)


def fold_transpose(model: Any) -> None:
    """Drop a transpose to (n, h, w, c) in front of a reshape and a matrix: permute its rows."""
    onnx = require("onnx", extra="export")
    graph = _Graph(model)
    for product in [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]:
        weights = graph.constant(product.input[1])
        reshape = graph.producer(product.input[0], "Reshape")
        transpose = None if reshape is None else graph.producer(reshape.input[0], "Transpose")
        turned = any(each.name in ("transA", "transB") and each.i for each in product.attribute)
        if weights is None or transpose is None or weights.ndim != 2 or turned:
            continue
        shape = graph.shape(transpose.input[0])
        if list(transpose.attribute[0].ints) != [0, 2, 3, 1] or shape is None:
            continue
        channels, height, width = shape
        if weights.shape[0] != channels * height * width:
            continue
        rows = weights.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
        name = f"{product.input[1]}_nchw"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ascontiguousarray(rows.reshape(weights.shape)), name)
        )
        product.input[1] = name
        reshape.input[0] = transpose.input[0]
        model.graph.node.remove(transpose)
    _drop_unused(model)


def drop_cast_pairs(model: Any) -> None:
    """Drop casts to float16 and straight back, which only round: two float32 neighbours have one.

    What goes out of the graph keeps its name.
    """
    onnx = require("onnx", extra="export")
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    makers = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    renamed = {}
    for back in list(model.graph.node):
        there = makers.get(back.input[0]) if back.op_type == "Cast" else None
        if there is None or there.op_type != "Cast":
            continue
        if (there.attribute[0].i, back.attribute[0].i) != (half, full):
            continue
        source, target = there.input[0], back.output[0]
        if target in outputs:
            renamed[source] = target
        else:
            renamed[target] = source
        model.graph.node.remove(back)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    used = {name for node in model.graph.node for name in node.input} | outputs
    for node in list(model.graph.node):
        if node.op_type == "Cast" and not set(node.output) & used:
            model.graph.node.remove(node)


def outside(nodes: Iterable[tuple[bool, Iterable[Any], Iterable[Any]]]) -> set[int]:
    """Return the positions of operators that no weighted one precedes, or none follows.

    The nodes, in the order of execution, are (whether it has weights, inputs, outputs).

    Example:

    >>> sorted(outside([(False, "x", "a"), (True, "a", "b"), (False, "b", "y")]))
    [0, 2]
    """
    listed = [(weighted, set(inputs), set(outputs)) for weighted, inputs, outputs in nodes]
    turned = [(weighted, outputs, inputs) for weighted, inputs, outputs in reversed(listed)]
    last = len(listed) - 1
    return _not_reached(listed) | {last - i for i in _not_reached(turned)}


def _not_reached(nodes: list[tuple[bool, set[Any], set[Any]]]) -> set[int]:
    """Return the positions of nodes that no weighted one leads to."""
    found, reached = set(), set[Any]()
    for i, (weighted, near, far) in enumerate(nodes):
        if weighted or near & reached:
            reached |= far
        else:
            found.add(i)
    return found


class _Graph:
    """A model's nodes by what they make and by what they take."""

    def __init__(self, model: Any) -> None:
        onnx = require("onnx", extra="export")
        self._array = onnx.numpy_helper.to_array
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users = Counter(name for node in model.graph.node for name in node.input)
        inferred = onnx.shape_inference.infer_shapes(model)
        self._values = {value.name: value for value in inferred.graph.value_info}

    def producer(self, name: str, kind: str) -> Any:
        """Return the node of that kind whose only use is as `name`, or None."""
        node = self._makers.get(name)
        alone = node is not None and node.op_type == kind and self._users[name] == 1
        return node if alone else None

    def constant(self, name: str) -> np.ndarray | None:
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(self._array(tensor))

    def shape(self, name: str) -> list[int] | None:
        """Return the dimensions behind the first where all three are known."""
        value = self._values.get(name)
        if value is None:
            return None
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim][1:]
        return sides if len(sides) == 3 and all(sides) else None

    def prelu_into(self, add: Any) -> tuple[str, np.ndarray, list[Any]] | None:
        """Return input, factor of `relu(-x)` and the nodes that go, if `add` ends a PReLU."""
        for straight, other in (add.input, reversed(add.input)):
            positive, product = self.producer(straight, "Relu"), self.producer(other, "Mul")
            if positive is None or product is None:
                continue
            for turned, factor in (product.input, reversed(product.input)):
                negative, slope = self.producer(turned, "Relu"), self.constant(factor)
                if negative is None or slope is None:
                    continue
                minus = self.producer(negative.input[0], "Neg")
                if minus is not None and minus.input[0] == positive.input[0]:
                    return positive.input[0], slope, [positive, product, negative, minus]
        return None


def _drop_unused(model: Any) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
