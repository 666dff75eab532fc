"""ONNX operators without weights as Keras layers, and the table of all that are imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tf_sphereface.importers import onnx_layers
from tf_sphereface.importers.onnx_constants import slices
from tf_sphereface.importers.onnx_file import Node
from tf_sphereface.importers.onnx_network import Network
from tf_sphereface.importers.onnx_values import (
    BATCH,
    Value,
    arranged,
    channels_last,
    dtype_at,
    plain,
    reshaped,
    transposed,
)

Operator = Callable[[Network, Node], Value | list[Value]]


# Element by element ------------------------------------------------------------------------------


def _activation(name: str, **expected: float) -> Operator:
    """Return an activation of Keras; attributes other than `expected` are refused."""

    def build(network: Network, node: Node) -> Value:
        for key, value in expected.items():
            if not math.isclose(node.attributes.get(key, value), value, rel_tol=1e-3):
                raise ValueError(f"its {key} is {node.attributes[key]}; {value} is imported")
        x = network.value(node)
        return network.layer(node, keras.layers.Activation, x, activation=name)

    return build


def _function(function: Callable[[Any], Any]) -> Operator:
    """Return a function of keras.ops that works element by element."""
    return lambda network, node: network.value(node).of(function(network.value(node).tensor))


def _leaky_relu(network: Network, node: Node) -> Value:
    slope = float(node.attributes.get("alpha", 0.01))
    return network.layer(node, keras.layers.LeakyReLU, network.value(node), negative_slope=slope)


def _hard_sigmoid(network: Network, node: Node) -> Value:
    slope, offset = (float(node.attributes.get(*each)) for each in (("alpha", 0.2), ("beta", 0.5)))
    x = network.value(node)
    if abs(slope - 1 / 6) < 1e-4 and offset == 0.5:
        return network.layer(node, keras.layers.Activation, x, activation="hard_sigmoid")
    x = network.layer(node, keras.layers.Rescaling, x, scale=slope, offset=offset)
    return network.layer(node, keras.layers.ReLU, x, max_value=1.0)


def _clip(network: Network, node: Node) -> Value:
    low, high = (network.number(node, *each) for each in (("min", 1), ("max", 2)))
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    x = network.value(node)
    if low == 0:
        most = high if high < 3e38 else None
        return network.layer(node, keras.layers.ReLU, x, max_value=most)
    return x.of(keras.ops.clip(x.tensor, max(low, -3e38), min(high, 3e38)))


def _dropout(network: Network, node: Node) -> Value:
    """`Dropout`: of use in training alone."""
    if len(list(filter(None, node.outputs))) > 1 and node.outputs[1]:
        network.values[node.outputs[1]] = np.ones(1, bool)
    rate = network.number(node, "ratio", 1)
    rate = 0.5 if rate is None else rate
    x = network.value(node)
    return network.layer(node, keras.layers.Dropout, x, rate=rate) if 0 < rate < 1 else x


def _same(network: Network, node: Node) -> Value:
    return network.value(node)


def _cast(network: Network, node: Node) -> Value:
    if node.attributes.get("to", 1) not in (1, 10, 11, 16):  # kinds of floats
        raise ValueError(f"it makes no floats of the image, but type {node.attributes['to']}")
    return network.value(node)


_MERGING = {
    "Add": keras.layers.Add,
    "Sum": keras.layers.Add,
    "Sub": keras.layers.Subtract,
    "Mul": keras.layers.Multiply,
    "Min": keras.layers.Minimum,
    "Max": keras.layers.Maximum,
}


def _arithmetic(network: Network, node: Node) -> Value:
    """`Add`, `Sub`, `Mul`, `Div`, of two values or of one and a constant."""
    operands = [network.values[name] for name in node.inputs]
    values = [each for each in operands if isinstance(each, Value)]
    if len(values) == len(operands):
        return _merged(network, node, values)
    if len(operands) != 2:
        raise ValueError("values and constants together, more than two of them")
    first = isinstance(operands[0], Value)
    constant = np.asarray(network.constant(node, 1 if first else 0), np.float64)
    if node.kind in ("Min", "Max"):
        if constant.size != 1:
            raise ValueError("a limit of more than one number")
        limit = keras.ops.minimum if node.kind == "Min" else keras.ops.maximum
        return values[0].of(limit(values[0].tensor, constant.item()))
    if node.kind in ("Add", "Sum"):
        return network.affine(node, values[0], 1.0, constant)
    if node.kind == "Sub":
        return network.affine(node, values[0], *((1.0, -constant) if first else (-1.0, constant)))
    if node.kind == "Mul":
        return network.affine(node, values[0], constant, 0.0)
    if not first or (constant == 0).any():
        raise ValueError("a constant through a value, or a division by 0")
    return network.affine(node, values[0], 1.0 / constant, 0.0)


def _merged(network: Network, node: Node, values: list[Value]) -> Value:
    """Merge values of one rank; sides of 1 are repeated, as of a squeeze-and-excitation block."""
    if len({len(value.axes) for value in values}) != 1:
        shapes = [("n", *value.shape[1:]) for value in values]
        raise ValueError(f"values of different rank, {shapes}")
    if len({value.flattened for value in values}) != 1:
        values = [plain(value) for value in values]
    largest = max(values, key=lambda value: value.count)
    values = [arranged(value, largest.axes) for value in values]
    tensors = [value.tensor for value in values]
    if len(tensors) == 1:
        return values[0]
    if node.kind == "Div":
        return largest.of(keras.ops.divide(*tensors))
    merge = _MERGING[node.kind](name=network.name(node), dtype=dtype_at(tensors[0]))
    return largest.of(merge(tensors))


def _power(network: Network, node: Node) -> Value:
    exponent = np.asarray(network.constant(node, 1))
    if exponent.size != 1:
        raise ValueError("exponents of which there are several")
    x = network.value(node)
    return x.of(keras.ops.power(x.tensor, float(exponent.reshape(-1)[0])))


# Axes --------------------------------------------------------------------------------------------


def _flatten(network: Network, node: Node) -> Value:
    x = network.value(node)
    rank, axis = len(x.axes), node.attributes.get("axis", 1)
    axis += rank if axis < 0 else 0
    if axis != 1 and not (axis == 0 and network.batch == 1):
        sides = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return reshaped(x, sides)
    return reshaped(x, (BATCH, x.count))


def _reshape(network: Network, node: Node) -> Value:
    x = network.value(node)
    shape = node.attributes.get("shape", network.constant(node, 1))
    if shape is None:
        raise ValueError("a shape that is not known")
    return reshaped(x, network.resolved(x, np.ravel(shape)))


def _squeeze(network: Network, node: Node) -> Value:
    x = network.value(node)
    shape, axes = x.shape, network.integers(node, "axes", 1)
    if axes is None:
        axes = [axis for axis, side in enumerate(shape) if side == 1]
    dropped = _from_start(axes, len(shape))
    if any(shape[axis] != 1 for axis in dropped):
        raise ValueError(f"axes {axes} of the shape {('n', *shape[1:])}")
    return reshaped(x, [side for axis, side in enumerate(shape) if axis not in dropped])


def _unsqueeze(network: Network, node: Node) -> Value:
    x = network.value(node)
    axes = network.integers(node, "axes", 1) or []
    rank = len(x.axes) + len(axes)
    added, sides = _from_start(axes, rank), iter(x.shape)
    return reshaped(x, [1 if axis in added else next(sides) for axis in range(rank)])


def _from_start(axes: Sequence[int], rank: int) -> list[int]:
    """Return axes counted from the first; those of the batch and beyond the last are refused."""
    found = [axis + rank if axis < 0 else axis for axis in axes]
    if not all(0 < axis < rank for axis in found):
        raise ValueError(f"axes {list(axes)}, with the batch among them or beyond the last")
    return found


def _transpose(network: Network, node: Node) -> Value:
    x = network.value(node)
    return transposed(x, node.attributes.get("perm", list(range(len(x.axes)))[::-1]))


def _in_onnx_order(network: Network, node: Node) -> Value:
    """Return the first input, the features of a flattened map in ONNX' order."""
    x = network.value(node)
    return x if x.flattened is None else plain(x)


def _place(x: Value, axis: int) -> int:
    """Return which axis of the tensor an axis of ONNX is."""
    return x.axes.index(_from_start([axis], len(x.axes))[0])


def _concatenate(network: Network, node: Node) -> Value:
    values = [network.value(node, place) for place in range(len(node.inputs))]
    if any(value.flattened for value in values):
        values = [plain(value) for value in values]
    values = [arranged(value, values[0].axes) for value in values]
    place = _place(values[0], node.attributes.get("axis", 1))
    tensors = [value.tensor for value in values]
    if len(tensors) == 1:
        return values[0]
    layer = keras.layers.Concatenate(place, name=network.name(node))
    return values[0].of(layer(tensors))


def _split(network: Network, node: Node) -> list[Value]:
    x = _in_onnx_order(network, node)
    place = _place(x, node.attributes.get("axis", 0))
    side, parts = x.tensor.shape[place], network.integers(node, "split", 1)
    if parts is None:
        size = math.ceil(side / len(node.outputs))
        parts = [min(size, side - start) for start in range(0, side, size)]
    if len(parts) != len(node.outputs) or sum(parts) != side or min(parts) < 1:
        raise ValueError(f"parts {parts} of {side}")
    ends = np.cumsum(parts)
    cuts = [slice(int(end) - part, int(end)) for end, part in zip(ends, parts, strict=True)]
    return [_cut(x, {place: each}) for each in cuts]


def _slice(network: Network, node: Node) -> Value:
    x = _in_onnx_order(network, node)
    cuts = slices(node, network.constants(node), len(x.axes))
    whole = cuts.pop(0, slice(0, None, 1))
    if (whole.start, whole.step) != (0, 1) or not (whole.stop is None or whole.stop >= BATCH):
        raise ValueError("it cuts the batch")
    return _cut(x, {x.axes.index(axis): each for axis, each in cuts.items()})


def _cut(x: Value, cuts: dict[int, slice]) -> Value:
    """Return a part of a value: by slices of its tensor's axes."""
    tensor, rank = x.tensor, len(x.axes)
    for place, each in cuts.items():
        chosen = range(tensor.shape[place])[each]
        if not chosen:
            raise ValueError("it leaves nothing of the map")
        if chosen.step < 0:
            tensor = keras.ops.take(tensor, np.asarray(chosen, "int32"), axis=place)
        elif len(chosen) < tensor.shape[place]:
            part = slice(chosen.start, chosen.stop, chosen.step)
            tensor = tensor[tuple(part if i == place else slice(None) for i in range(rank))]
    return x.of(tensor)


def _gather(network: Network, node: Node) -> Value:
    x = _in_onnx_order(network, node)
    indices, axis = np.asarray(network.constant(node, 1)), node.attributes.get("axis", 0)
    place = _place(x, axis)
    side = x.tensor.shape[place]
    if indices.ndim > 1 or (indices < -side).any() or (indices >= side).any():
        raise ValueError(f"indices {indices.tolist()} of {side}")
    chosen = np.ravel(indices % side).astype("int32")
    x = x.of(keras.ops.take(x.tensor, chosen, axis=place))
    if indices.ndim:
        return x
    axis = x.axes[place]
    return reshaped(x, [side for each, side in enumerate(x.shape) if each != axis])


def _pad(network: Network, node: Node) -> Value:
    x = _in_onnx_order(network, node)
    x, rank = channels_last(x), len(x.axes)
    sides, axes = network.integers(node, "pads", 1) or [], network.integers(node, "axes", 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if len(sides) != 2 * len(axes):
        raise ValueError(f"{len(sides)} numbers for {len(axes)} axes")
    around = [(0, 0)] * rank
    for axis, before, behind in zip(axes, sides, sides[len(axes) :], strict=False):
        around[x.axes.index(axis)] = (before, behind)
    if around[0] != (0, 0) or min(sides, default=0) < 0 or max(sides, default=0) > 4096:
        raise ValueError(f"it pads by {sides}")
    mode, value = node.attributes.get("mode", "constant"), network.number(node, "value", 2) or 0.0
    if mode not in ("constant", "reflect"):
        raise ValueError(f"its mode is {mode!r}; constant and reflect are imported")
    if rank == 4 and around[3] == (0, 0) and (mode, value) == ("constant", 0.0):
        return onnx_layers.zero_padded(x, around[1:3])
    options = {"constant_values": value} if mode == "constant" else {}
    return x.of(keras.ops.pad(x.tensor, around, mode=mode, **options))


# Sums over axes ----------------------------------------------------------------------------------


def _reduction(function: Callable[..., Any]) -> Operator:
    """Return a reduction over axes behind the batch."""

    def build(network: Network, node: Node) -> Value:
        x = network.value(node)
        axes = network.integers(node, "axes", 1)
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return x
        axes = _from_start(axes or list(range(len(x.axes))), len(x.axes))
        if node.kind == "ReduceMean" and len(x.axes) == 4 and sorted(axes) == [2, 3]:
            x = onnx_layers.global_pooling(network, node)
        else:
            places = [x.axes.index(axis) for axis in axes]
            x = Value(function(x.tensor, axis=places, keepdims=True), x.axes)
        if node.attributes.get("keepdims", 1):
            return x
        return reshaped(x, [side for axis, side in enumerate(x.shape) if axis not in axes])

    return build


def _norm(tensor: Any, axis: Sequence[int], keepdims: bool) -> Any:
    return keras.ops.sqrt(keras.ops.sum(tensor * tensor, axis=axis, keepdims=keepdims))


def _unit_length(network: Network, node: Node) -> Value:
    """`LpNormalization`, and what `onnx_graph` recognises as one."""
    if node.attributes.get("p", 2) != 2:
        raise ValueError(f"its p is {node.attributes['p']}; 2 is imported")
    x = network.value(node)
    place = _place(x, node.attributes.get("axis", -1))
    return network.layer(node, keras.layers.UnitNormalization, x, axis=place)


OPERATORS: dict[str, Operator] = {
    "Conv": onnx_layers.convolution,
    "Gemm": onnx_layers.dense,
    "MatMul": onnx_layers.dense,
    "BatchNormalization": onnx_layers.batch_normalization,
    "PRelu": onnx_layers.prelu,
    "MaxPool": onnx_layers.max_pooling,
    "AveragePool": onnx_layers.average_pooling,
    "GlobalAveragePool": onnx_layers.global_pooling,
    "GlobalMaxPool": onnx_layers.global_pooling,
    "Relu": lambda network, node: network.layer(node, keras.layers.ReLU, network.value(node)),
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Elu": _activation("elu", alpha=1.0),
    "Softplus": _activation("softplus"),
    "Mish": _activation("mish"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation("hard_silu"),
    "Sqrt": _function(keras.ops.sqrt),
    "Abs": _function(keras.ops.abs),
    "Neg": _function(keras.ops.negative),
    "Reciprocal": _function(keras.ops.reciprocal),
    "Pow": _power,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Sum": _arithmetic,
    "Min": _arithmetic,
    "Max": _arithmetic,
    "Dropout": _dropout,
    "Identity": _same,
    "Cast": _cast,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concatenate,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "ReduceMean": _reduction(keras.ops.mean),
    "ReduceSum": _reduction(keras.ops.sum),
    "ReduceMax": _reduction(keras.ops.max),
    "ReduceL2": _reduction(_norm),
    "LpNormalization": _unit_length,
}
"""What builds the layers of an operator, by its kind."""
