"""The division of a vector by its own norm, in the forms that exporters write it in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf_sphereface.importers.onnx_file import Graph, Node

_UNIT = "LpNormalization"
_BETWEEN = ("Clip", "Max", "Add", "Expand", "Identity", "Unsqueeze", "Reshape", "Cast")
_PASSING = ("Identity", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Cast")
_SMALL = 1e-4  # a least value or an additional term up to it only guards against 0


def with_unit_length(graph: Graph) -> list[Node]:
    """Return the nodes of a graph with an `LpNormalization` for each value through its own norm.

    The norm is a `ReduceL2`, or the root of a sum of squares, perhaps with a least value or a small
    term. Nodes that then serve nothing are left out.
    """
    norms = _Norms(graph)
    needed, kept = {graph.output}, []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        axis = norms.axis_of(node)
        if axis is not None:
            attributes = {"axis": axis, "p": 2}
            node = Node(_UNIT, node.name, node.inputs[:1], node.outputs, attributes)
        needed.update(node.inputs)
        kept.append(node)
    return kept[::-1]


def ends_in_unit_length(graph: Graph) -> bool:
    """Tell whether the embedding is divided by its norm at the end."""
    name = graph.output
    for node in reversed(graph.nodes):
        if name in node.outputs:
            if node.kind not in _PASSING:
                return node.kind == _UNIT
            name = node.inputs[0]
    return False


class _Norms:
    """A graph, looked through from an operator back to the image."""

    def __init__(self, graph: Graph) -> None:
        self._constants = graph.constants
        self._makers = {name: node for node in graph.nodes for name in node.outputs}

    def axis_of(self, node: Node) -> int | None:
        """Return the axis along which an operator divides a value by its norm; else None."""
        if node.kind not in ("Div", "Mul") or len(node.inputs) != 2:
            return None
        x, norm = node.inputs
        if node.kind == "Mul":
            inverse = self._makers.get(norm)
            if inverse is None or inverse.kind != "Reciprocal":
                return None
            norm = inverse.inputs[0]
        found = self._behind(norm)
        if found is not None and found.kind == "Sqrt":
            found = self._behind(found.inputs[0])
            if found is None or found.kind != "ReduceSum" or not self._squares(found.inputs[0], x):
                return None
        elif found is None or found.kind != "ReduceL2" or found.inputs[0] != x:
            return None
        axes = found.attributes.get("axes")
        if axes is None and len(found.inputs) > 1:
            axes = self._numbers(found.inputs[1])
        return int(axes[0]) if axes is not None and len(axes) == 1 else None

    def _behind(self, name: str) -> Node | None:
        """Return what makes a value, but for operators that only guard it against 0."""
        for _ in range(len(_BETWEEN)):
            node = self._makers.get(name)
            if node is None or node.kind not in _BETWEEN:
                return node
            if node.kind in ("Clip", "Max", "Add"):
                least = self._numbers(node.inputs[1]) if len(node.inputs) > 1 else None
                least = [node.attributes.get("min", 0.0)] if least is None else least
                if len(least) != 1 or not abs(least[0]) <= _SMALL:
                    return None
            name = node.inputs[0]
        return None

    def _squares(self, name: str, x: str) -> bool:
        """Tell whether a value is the square of `x`."""
        node = self._makers.get(name)
        if node is None or len(node.inputs) != 2 or node.inputs[0] != x:
            return False
        if node.kind == "Mul":
            return node.inputs[1] == x
        exponent = self._numbers(node.inputs[1])
        return node.kind == "Pow" and exponent is not None and list(exponent) == [2]

    def _numbers(self, name: str) -> Sequence[float] | None:
        """Return a small constant's numbers."""
        made = self._makers.get(name)
        values: object = self._constants.get(name)
        if made is not None and made.kind == "Constant":
            values = next(iter(made.attributes.values()), None)
        if values is None or not isinstance(values, np.ndarray | list | float | int):
            return None
        flat = np.ravel(values)
        return flat.tolist() if flat.size <= 8 and flat.dtype.kind in "fiu" else None
