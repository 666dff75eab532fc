"""Operators on constants, computed while a graph is read: shapes above all, reshaped weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_sphereface.importers.onnx_file import Node

_LARGEST = 1 << 27  # numbers in a constant that is computed
_NOT_FLOATS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
               12: "uint32", 13: "uint64"}  # fmt: skip

Arrays = list[np.ndarray | None]


def fold(node: Node, inputs: Arrays) -> list[np.ndarray]:
    """Return the outputs of an operator whose inputs are all constants (None: left out).

    Raises:
        ValueError: the operator is not in `FOLDED`, or the constants do not fit it.

    Example:

    >>> fold(Node("Concat", "", ["a", "b"], ["c"], {"axis": 0}), [np.ones(1), np.zeros(2)])
    [array([1., 0., 0.])]
    """
    function = FOLDED.get(node.kind)
    if function is None:
        raise ValueError(f"{node}: it is not computed here on constants")
    try:
        result = function(node, inputs)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
    except Exception as error:  # NumPy raises many kinds for constants that do not fit
        raise ValueError(f"{node} does not fit its constants ({error})") from error
    return result if isinstance(result, list) else [np.asarray(result)]


def integers(node: Node, inputs: Arrays, name: str, place: int) -> list[int] | None:
    """Return what is an attribute in older operator sets and an input in later ones."""
    if name in node.attributes:
        value = node.attributes[name]
        return [int(value)] if isinstance(value, int) else [int(each) for each in value]
    array = inputs[place] if len(inputs) > place else None
    return None if array is None else [int(each) for each in np.ravel(array)]


def _limited(shape: Sequence[int]) -> tuple[int, ...]:
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST:
        raise ValueError(f"it makes a constant of the shape {tuple(shape)}")
    return tuple(int(side) for side in shape)


def _elementwise(function: Callable[..., Any]) -> Callable[[Node, Arrays], Any]:
    def apply(node: Node, inputs: Arrays) -> Any:
        given = [array for array in inputs if array is not None]
        _limited(np.broadcast_shapes(*(array.shape for array in given)))
        result = function(*given)
        kind = given[-1].dtype  # of Where the first is a condition
        return result.astype(kind) if result.dtype.kind == "f" and kind.kind == "f" else result

    return apply


def _divide(a: np.ndarray, b: np.ndarray) -> Any:
    whole = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return (
        np.trunc(a / b).astype(a.dtype) if whole and (a < 0).any() else (a // b if whole else a / b)
    )


def _constant(node: Node, inputs: Arrays) -> Any:
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32),
                        ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    if not isinstance(node.attributes.get("value"), np.ndarray):
        raise ValueError("a constant of another kind than numbers")
    return node.attributes["value"]


def _cast(node: Node, inputs: Arrays) -> Any:
    (array,) = inputs
    return np.asarray(array).astype(_NOT_FLOATS.get(node.attributes.get("to", 1), "float32"))


def _gather(node: Node, inputs: Arrays) -> Any:
    array, indices = map(np.asarray, inputs)
    axis = node.attributes.get("axis", 0)
    _limited([array.size // max(1, array.shape[axis]), indices.size])
    return np.take(array, indices, axis)


def _concatenate(node: Node, inputs: Arrays) -> Any:
    arrays = [np.asarray(array) for array in inputs]
    _limited([sum(array.size for array in arrays)])
    return np.concatenate(arrays, node.attributes.get("axis", 1))


def _unsqueeze(node: Node, inputs: Arrays) -> Any:
    return np.expand_dims(np.asarray(inputs[0]), tuple(integers(node, inputs, "axes", 1) or ()))


def _squeeze(node: Node, inputs: Arrays) -> Any:
    axes = integers(node, inputs, "axes", 1)
    return np.squeeze(np.asarray(inputs[0]), None if axes is None else tuple(axes))


def _reshape(node: Node, inputs: Arrays) -> Any:
    array, shape = map(np.asarray, inputs)
    copied = not node.attributes.get("allowzero", 0)
    sides = [array.shape[i] if side == 0 and copied else side for i, side in enumerate(shape)]
    return array.reshape(sides)


def _flatten(node: Node, inputs: Arrays) -> Any:
    array, axis = np.asarray(inputs[0]), node.attributes.get("axis", 1)
    return array.reshape(math.prod(array.shape[:axis]), -1)


def _transpose(node: Node, inputs: Arrays) -> Any:
    return np.transpose(np.asarray(inputs[0]), node.attributes.get("perm"))


def slices(node: Node, inputs: Arrays, rank: int) -> dict[int, slice]:
    """Return the slice along each axis that a `Slice` cuts, in either form of the operator."""
    starts, ends = (
        integers(node, inputs, name, i) or [] for i, name in ((1, "starts"), (2, "ends"))
    )
    axes = integers(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = integers(node, inputs, "steps", 4) or [1] * len(starts)
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if not -rank <= axis < rank or step == 0:
            raise ValueError(f"axis {axis} and step {step} of {rank} axes")
        stop = None if step < 0 and end < -(1 << 31) + 1 else end
        found[axis % rank] = slice(start, stop, step)
    return found


def _slice(node: Node, inputs: Arrays) -> Any:
    array = np.asarray(inputs[0])
    cuts = slices(node, inputs, array.ndim)
    return array[tuple(cuts.get(axis, slice(None)) for axis in range(array.ndim))]


def _filled(node: Node, inputs: Arrays) -> Any:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    shape = _limited([int(side) for side in np.ravel(np.asarray(inputs[0]))])
    return np.full(shape, np.ravel(value)[0], value.dtype)


def _expand(node: Node, inputs: Arrays) -> Any:
    array, shape = np.asarray(inputs[0]), [int(side) for side in np.ravel(np.asarray(inputs[1]))]
    whole = _limited(np.broadcast_shapes(array.shape, _limited(shape)))
    return np.broadcast_to(array, whole).copy()


def _range(node: Node, inputs: Arrays) -> Any:
    start, limit, step = (float(np.asarray(array).item()) for array in inputs)
    _limited([max(0, math.ceil((limit - start) / step))])
    return np.arange(start, limit, step).astype(np.asarray(inputs[0]).dtype)


def _reduce(function: Callable[..., Any]) -> Callable[[Node, Arrays], Any]:
    def apply(node: Node, inputs: Arrays) -> Any:
        axes = integers(node, inputs, "axes", 1)
        keep = bool(node.attributes.get("keepdims", 1))
        return function(inputs[0], axis=None if axes is None else tuple(axes), keepdims=keep)

    return apply


FOLDED: dict[str, Callable[[Node, Arrays], Any]] = {
    "Constant": _constant,
    "Identity": lambda node, inputs: inputs[0],
    "Cast": _cast,
    "Shape": lambda node, inputs: np.asarray(np.shape(np.asarray(inputs[0])), np.int64),
    "Size": lambda node, inputs: np.asarray(np.size(np.asarray(inputs[0])), np.int64),
    "Gather": _gather,
    "Concat": _concatenate,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Slice": _slice,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Pow": _elementwise(np.power),
    "Min": _elementwise(lambda *arrays: functools.reduce(np.minimum, arrays)),
    "Max": _elementwise(lambda *arrays: functools.reduce(np.maximum, arrays)),
    "Equal": _elementwise(np.equal),
    "Where": _elementwise(np.where),
    "Neg": _elementwise(np.negative),
    "Sqrt": _elementwise(np.sqrt),
    "Reciprocal": _elementwise(np.reciprocal),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
}
"""What is computed on constants, by the operator's kind."""
