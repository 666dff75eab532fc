"""The graph in an ONNX file: nodes in order and constants, read without trusting the file."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.importers.onnx_values import BATCH
from tf_sphereface.utils.messages import and_more
from tf_sphereface.utils.optional import require

_MOST_BYTES = 1 << 31  # of a protocol buffer
_MOST_NODES = 20_000
_LARGEST_SIDE = 4096  # pixels
_OLDEST = 7  # the operator set since which shapes broadcast as in NumPy
_HALVES = ("FLOAT16", "BFLOAT16")
_INPUT_TYPES = ("FLOAT", *_HALVES, "DOUBLE", "UINT8")


@dataclasses.dataclass(eq=False)
class Node:
    """An operator: its kind (with the domain before it, unless that is ONNX' own), and names."""

    kind: str
    name: str
    inputs: list[str]  # "" where an optional one is left out
    outputs: list[str]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {(self.name or self.outputs[0])[:120]!r}"


@dataclasses.dataclass(eq=False)
class Graph:
    """What an embedder's file holds, up to its output.

    Attributes:
        nodes: those that the output needs, each behind those that it needs.
        constants: the tensors in the file, by name; floats of other sizes as float32.
        input: the image's name.
        shape: its shape; None for a side that the file leaves open.
        takes_pixels: whether it takes uint8.
        output: the embedding's name.
        others: names of the outputs that are left out.
        opset: the version of ONNX' operators.
        producer: name and version of the program that wrote it, or "".
        half: whether anything is computed with 16 bits there.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    input: str
    shape: list[int | None]
    takes_pixels: bool
    output: str
    others: list[str]
    opset: int
    producer: str
    half: bool

    def kinds(self) -> str:
        """Return how many operators of each kind there are, in words."""
        counts = Counter(node.kind for node in self.nodes)
        return and_more([f"{count} {kind}" for kind, count in counts.most_common()], 8)


def load_proto(path: Path) -> Any:
    """Return the protocol buffer in an ONNX file, with its tensors from other files inside it.

    Raises:
        ValueError: it is damaged or no ONNX model, or names a file outside its folder.
        ImportError: the `export` extra is not installed.
    """
    onnx = require("onnx", extra="export")
    size = path.stat().st_size
    if size >= _MOST_BYTES:
        raise ValueError(f"{path}: {size:,} bytes, where an ONNX file has less than 2 GiB")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds
        raise ValueError(
            f"{path}: not an ONNX model, or only a part of one ({error}): download it again"
        ) from error
    if not model.ir_version or not model.graph.node or not model.opset_import:
        raise ValueError(f"{path}: not an ONNX model: it has no graph, or no version of operators")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_in(tensor, path)
    return model


def read_graph(model: Any, path: Path, output: str | None = None) -> Graph:
    """Return the graph in a protocol buffer, up to one output; `path` is for messages.

    Raises:
        ValueError: several inputs or outputs (`output` chooses one), an input that is no batch of
            images, a circle, or damage.
    """
    try:
        return _graph(model, output)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _graph(model: Any, output: str | None) -> Graph:
    graph = model.graph
    if len(graph.node) > _MOST_NODES:
        raise ValueError(f"{len(graph.node):,} operators, where an embedder has hundreds")
    opset = _opset(model)
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = and_more([repr(value.name) for value in inputs], 10)
        raise ValueError(
            f"an embedder has one input, the image. Received: {len(inputs)}"
            + (
                f", {names}: fix the others in the graph, or export it without them"
                if names
                else ""
            )
        )
    name = _chosen_output([value.name for value in graph.output], output)
    nodes = _in_order([_node(node) for node in graph.node], {inputs[0].name, *constants}, name)
    return Graph(
        nodes=nodes,
        constants=constants,
        input=inputs[0].name,
        shape=_image_shape(inputs[0]),
        takes_pixels=_type_name(inputs[0].type.tensor_type.elem_type) == "UINT8",
        output=name,
        others=[value.name for value in graph.output if value.name != name],
        opset=opset,
        producer=f"{model.producer_name} {model.producer_version}".strip()[:80],
        half=_has_half(model),
    )


def _opset(model: Any) -> int:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not versions or versions[0] < _OLDEST:
        raise ValueError(
            f"its operators must be of version {_OLDEST} or later: renew the file by "
            "onnx.version_converter.convert_version(model, 11). Received: "
            f"{versions[0] if versions else 'none of ONNX'}"
        )
    return int(versions[0])


def _chosen_output(names: list[str], output: str | None) -> str:
    if output is None and len(names) == 1:
        return names[0]
    if output in names:
        return str(output)
    listed = and_more([repr(name) for name in names], 10) or "none"
    if output is None:
        raise ValueError(
            f"it has {len(names)} outputs, {listed}: say which is the embedding: --key"
        )
    raise ValueError(f"it has no output {output!r} (--key), but {listed}")


def _image_shape(value: Any) -> list[int | None]:
    """Return the input's four sides; None where the file leaves one open."""
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    kind = _type_name(tensor.elem_type)
    shown = ["any" if side is None else side for side in shape]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or kind not in _INPUT_TYPES:
        raise ValueError(
            "its input must be a batch of images of three channels, (n, 3, height, width) or (n, "
            f"height, width, 3), of floats or uint8. Received: {value.name!r}, {shown}, {kind}"
        )
    if any(side is not None and side > _LARGEST_SIDE for side in shape[1:]):
        raise ValueError(f"its images are larger than {_LARGEST_SIDE} pixels: {shown}")
    return shape


def _in_order(nodes: list[Node], known: set[str], output: str) -> list[Node]:
    """Return the nodes that the output needs, each behind what it takes, else in their order."""
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in maker or name in known:
                raise ValueError(f"{name!r} is made twice, the second time by {node}")
            maker[name] = index
    if output not in maker:
        raise ValueError(f"nothing makes its output {output!r}")
    needed, open_names = set[int](), [output]
    takers: dict[int, list[int]] = defaultdict(list)
    waiting: dict[int, int] = {}
    while open_names:
        index = maker[open_names.pop()]
        if index in needed:
            continue
        needed.add(index)
        makers = set()
        for name in filter(None, nodes[index].inputs):
            if name in maker:
                makers.add(maker[name])
                open_names.append(name)
            elif name not in known:
                raise ValueError(f"{nodes[index]} takes {name!r}, which nothing makes")
        waiting[index] = len(makers)
        for each in makers:
            takers[each].append(index)
    ready = sorted(index for index in needed if not waiting[index])
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for taker in takers[index]:
            waiting[taker] -= 1
            if not waiting[taker]:
                heapq.heappush(ready, taker)
    if len(order) < len(needed):
        circle = [str(nodes[index]) for index in sorted(needed.difference(order))]
        raise ValueError(f"its operators form a circle: {and_more(circle, 5)}")
    return [nodes[index] for index in order]


def _node(node: Any) -> Node:
    onnx = require("onnx", extra="export")
    own = node.domain in ("", "ai.onnx")
    attributes = {}
    for each in node.attribute:
        value = onnx.helper.get_attribute_value(each)
        if isinstance(value, onnx.TensorProto):
            value = _array(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attributes[each.name] = value
    kind = node.op_type if own else f"{node.domain}.{node.op_type}"
    if not node.output:
        raise ValueError(f"{kind} {node.name!r} has no output")
    return Node(kind, node.name, list(node.input), list(node.output), attributes)


# Tensors -----------------------------------------------------------------------------------------


def _tensors(graph: Any) -> list[Any]:
    """Return the tensors of a graph: its weights, and the values of `Constant`."""
    values = [each.t for node in graph.node for each in node.attribute if each.HasField("t")]
    return [*graph.initializer, *values]


def _type_name(number: int) -> str:
    onnx = require("onnx", extra="export")
    known = number in onnx.TensorProto.DataType.values()
    return str(onnx.TensorProto.DataType.Name(number)) if known else f"type {number}"


def _array(tensor: Any) -> np.ndarray:
    """Return a tensor as an array, its size checked against what is there; floats as float32."""
    onnx = require("onnx", extra="export")
    sides = list(tensor.dims)
    name, count = tensor.name[:120], math.prod(sides)
    kind = _type_name(tensor.data_type)
    if any(not 0 <= side < BATCH**2 for side in sides) or kind in ("STRING", "UNDEFINED"):
        raise ValueError(f"its tensor {name!r} cannot be read: {kind} {sides}")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        packed = kind in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
        if tensor.raw_data and not packed and len(tensor.raw_data) != count * dtype.itemsize:
            raise ValueError(f"{len(tensor.raw_data):,} bytes for {count:,} numbers")
        array = np.asarray(onnx.numpy_helper.to_array(tensor)) if count else np.zeros(sides, dtype)
    except Exception as error:  # the library raises its own kinds
        raise ValueError(f"its tensor {name!r} {sides} is damaged ({error})") from error
    return array.astype(np.float32) if kind in (*_HALVES, "DOUBLE") else array


def _has_half(model: Any) -> bool:
    """Tell whether a graph computes with 16 bits: by its input, its weights or a Cast."""
    numbers = [tensor.data_type for tensor in _tensors(model.graph)]
    numbers += [value.type.tensor_type.elem_type for value in model.graph.input]
    for node in model.graph.node:
        numbers += [each.i for each in node.attribute if node.op_type == "Cast"]
    return any(_type_name(number) in _HALVES for number in set(numbers))


def _take_in(tensor: Any, path: Path) -> None:
    """Read a tensor that lies in a file beside the model; refuse any other place."""
    onnx = require("onnx", extra="export")
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location, label = facts.get("location", ""), f"{path}: its tensor {tensor.name[:120]!r}"
    file = path.parent / location
    parts = Path(location).parts
    lexical = location and "\0" not in location and ".." not in parts
    if (
        not lexical
        or Path(location).is_absolute()
        or not file.resolve().is_relative_to(path.parent.resolve())
    ):
        raise ValueError(f"{label} lies outside the model's folder, at {location[:200]!r}: refused")
    if not file.is_file():
        raise ValueError(f"{label} lies in {file}, which is missing: download it too")
    try:
        start, length = int(facts.get("offset", 0)), int(facts.get("length", -1))
        bits = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{label} is damaged ({error})") from error
    expected = math.prod(tensor.dims) * bits
    length = expected if length < 0 else length
    if length != expected or start < 0 or start + length > file.stat().st_size:
        raise ValueError(
            f"{label} should be {expected:,} bytes at {start:,} of {file.name}, which has "
            f"{file.stat().st_size:,}"
        )
    with file.open("rb") as stream:
        stream.seek(start)
        tensor.raw_data = stream.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
