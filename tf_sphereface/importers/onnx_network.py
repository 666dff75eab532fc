"""A Keras network that grows operator by operator: its values, the names of its layers, its input.

Normalisation of the pixels with which a graph begins is not built: it is kept as mean and scale.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from typing import Any

import keras
import numpy as np

from tf_sphereface.importers.onnx_constants import Arrays, fold, integers
from tf_sphereface.importers.onnx_file import Graph, Node
from tf_sphereface.importers.onnx_values import (
    BATCH,
    Value,
    constant_beside,
    dtype_at,
    per_channel,
)

OF_PIXELS = 2.0  # a mean or a scale above it is of pixels of 0 to 255, not of 0 to 1 or -1 to 1
_CHANNELS = 3


@dataclasses.dataclass
class Normalization:
    """What the graph did to its pixels at its start: less `mean`, then through `scale`."""

    mean: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(_CHANNELS))
    scale: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(_CHANNELS))
    operators: list[str] = dataclasses.field(default_factory=list)


class Network:
    """The values that have been built, and what operators need to build the next.

    Attributes:
        opset: the version of ONNX' operators.
        batch: the batch size that the file fixes, or None.
        start: the normalisation that was found at the graph's start.
    """

    def __init__(self, graph: Graph, size: tuple[int, int]) -> None:
        self.opset, self.batch, self.start = graph.opset, graph.shape[0], Normalization()
        first = graph.shape[1] == _CHANNELS and graph.shape[3] != _CHANNELS
        self.image = keras.Input((*size, _CHANNELS), name="image")
        axes = (0, 2, 3, 1) if first else (0, 1, 2, 3)
        self.values: dict[str, Value | np.ndarray] = {
            **graph.constants,
            graph.input: Value(self.image, axes),
        }
        self._names = {"image"}
        self._takers: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self._takers[name].append(node)
        self._output = graph.output
        self._done: dict[str, str] = {}  # output of an operator that is part of another one's layer

    # What an operator takes ----------------------------------------------------------------------

    def value(self, node: Node, place: int = 0) -> Value:
        """Return an input that comes from the image."""
        found = self.values[node.inputs[place]]
        if not isinstance(found, Value):
            raise ValueError(f"its input {node.inputs[place]!r} must come from the image")
        return found

    def constant(self, node: Node, place: int) -> np.ndarray | None:
        """Return an input that is a constant; None where it is left out."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        if not name:
            return None
        found = self.values[name]
        if isinstance(found, Value):
            raise ValueError(f"its input {name!r} must be a constant, and depends on the image")
        return found

    def weights(self, node: Node, place: int) -> np.ndarray:
        """Return an input of finite floats that must be there."""
        array = self.constant(node, place)
        if array is None or array.dtype.kind != "f":
            raise ValueError(f"its input {place} must be floats")
        if not np.isfinite(array).all():
            raise ValueError(f"its weights {node.inputs[place]!r} are not finite")
        return array

    def constants(self, node: Node) -> Arrays:
        """Return all inputs, None for those from the image."""
        found = [self.values[name] if name else None for name in node.inputs]
        return [None if isinstance(each, Value) else each for each in found]

    def integers(self, node: Node, name: str, place: int) -> list[int] | None:
        """Return what is an attribute in older operator sets, and an input in later ones."""
        return integers(node, self.constants(node), name, place)

    def number(self, node: Node, name: str, place: int) -> float | None:
        """Return a number, likewise; None where it is left out."""
        if name in node.attributes:
            return float(node.attributes[name])
        array = self.constant(node, place)
        return None if array is None or not array.size else float(array.reshape(-1)[0])

    # What it makes -------------------------------------------------------------------------------

    def name(self, node: Node) -> str:
        """Return a name for an operator's layer, which no other has."""
        words = re.sub(r"[^A-Za-z0-9_.-]+", "_", node.name or node.outputs[0])[:100].strip("_.-")
        if not any(letter.isupper() for letter in words):  # Keras' own names have none
            words = f"{node.kind}_{words}"
        name, count = words, 1
        while name in self._names:
            count += 1
            name = f"{words}.{count}"
        self._names.add(name)
        return name

    def layer(
        self, node: Node, kind: Any, value: Value, *weights: np.ndarray | None, **options: Any
    ) -> Value:
        """Apply a new layer, its weights set; those that are None stay out."""
        layer = kind(**options, name=self.name(node), dtype=dtype_at(value.tensor))
        tensor = layer(value.tensor)
        given = [array for array in weights if array is not None]
        if given:
            layer.set_weights(given)
        return value.of(tensor)

    def affine(self, node: Node, value: Value, scale: Any, offset: Any) -> Value:
        """Return `scale x + offset`: numbers, or one per channel; at the start it is kept apart.

        ONNX' own layout of `scale` and `offset` is laid out as the value's.
        """
        arrays = []
        for each in (scale, offset):
            value, array = constant_beside(value, np.asarray(each, np.float64))
            arrays.append(per_channel(array))
        factors, terms = arrays
        if factors is None or terms is None:
            shapes = [np.shape(each) for each in (scale, offset)]
            raise ValueError(f"one number per channel is imported, and not constants of {shapes}")
        if not (np.isfinite(factors).all() and np.isfinite(terms).all()):
            raise ValueError("its constants are not finite")
        if self.at_start(value) and (factors > 0).all():
            mean, through = self.start.mean, self.start.scale
            self.start.mean = mean - terms / factors * through
            self.start.scale = through / factors
            self.start.operators.append(str(node))
            return value
        numbers = [a.tolist() if a.size > 1 else a.item() for a in (factors, terms)]
        return self.layer(node, keras.layers.Rescaling, value, scale=numbers[0], offset=numbers[1])

    def at_start(self, value: Value) -> bool:
        """Tell whether a value is the image, and only one operator takes it."""
        if value.tensor is not self.image:
            return False
        names = [
            name
            for name, each in self.values.items()
            if isinstance(each, Value) and each.tensor is self.image
        ]
        takers = [[node for node in self._takers[name] if node.kind != "Shape"] for name in names]
        return max(map(len, takers)) == 1

    def term_behind(self, node: Node, channels: int, behind: int) -> np.ndarray | None:
        """Return the bias that the next operator adds, (channels,), and leave that operator out.

        None where what follows is not the addition of one number per channel; `behind` is how many
        axes stand behind that of the channels.
        """
        takers = self._takers[node.outputs[0]]
        if len(takers) != 1 or takers[0].kind != "Add" or node.outputs[0] == self._output:
            return None
        others = [name for name in takers[0].inputs if name != node.outputs[0]]
        array = self.values.get(others[0]) if others else None
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            return None
        before = array.ndim - 1 - behind
        if before < 0 or array.shape != (1,) * before + (channels,) + (1,) * behind:
            return None
        self._done[takers[0].outputs[0]] = node.outputs[0]
        return array.reshape(channels)

    def resolved(self, value: Value, shape: np.ndarray) -> list[int]:
        """Return the shape that a `Reshape` asks for: without 0 and -1, `BATCH` for the batch."""
        old = value.shape
        sides = [
            old[i] if side == 0 and i < len(old) else int(side) for i, side in enumerate(shape)
        ]
        if self.batch is not None and sides and sides[0] == self.batch and sides[0] != BATCH:
            sides[0] = BATCH
        whole, known = BATCH * value.count, 1
        for side in sides:
            known *= 1 if side == -1 else side
        if sides.count(-1) == 1 and known > 0 and whole % known == 0:
            sides[sides.index(-1)] = whole // known
        return sides

    # The nodes -----------------------------------------------------------------------------------

    def settled(self, node: Node) -> bool:
        """Compute an operator on constants, or take what its predecessor made of it; else False."""
        if node.outputs[0] in self._done:
            self.values[node.outputs[0]] = self.values[self._done[node.outputs[0]]]
            return True
        given = [self.values[name] if name else None for name in node.inputs]
        if node.kind in ("Shape", "Size") and isinstance(given[0], Value):
            shape = np.asarray(given[0].shape, np.int64)
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            whole = np.asarray(BATCH * given[0].count, np.int64)
            self.values[node.outputs[0]] = shape[start:end] if node.kind == "Shape" else whole
            return True
        if any(isinstance(each, Value) for each in given):
            return False
        results = fold(node, self.constants(node))
        self.values.update(zip(node.outputs, results, strict=False))
        return True
