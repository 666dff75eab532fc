"""An embedder in an ONNX file as a Keras model of stock layers, which can be trained further."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface.importers.onnx_constants import FOLDED
from tf_sphereface.importers.onnx_file import Graph, Node, load_proto, read_graph
from tf_sphereface.importers.onnx_network import Network, Normalization
from tf_sphereface.importers.onnx_norms import ends_in_unit_length, with_unit_length
from tf_sphereface.importers.onnx_operators import OPERATORS
from tf_sphereface.importers.onnx_values import Value, plain, reshaped
from tf_sphereface.utils.checks import check_image_size, error
from tf_sphereface.utils.keras_private import all_layers
from tf_sphereface.utils.messages import SphereFaceWarning, and_more
from tf_sphereface.utils.optional import require

_USUAL = (112, 112)


class _UnknownOperatorError(ValueError):
    """A graph has operators that are not imported."""


@dataclasses.dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """A network from an ONNX file.

    Attributes:
        model: from (n, height, width, 3), its channels as in the file, to (n, embedding_dim).
        normalization: what the graph did to its pixels at its start, which the model does not.
        takes_pixels: whether the file takes uint8.
        normalized: whether the embedding has unit length.
        left_out: outputs of the file that the model lacks, in words.
        contents: the program that wrote the file, and its operators, in words.
        half: whether the file computes with 16 bits.
    """

    model: keras.Model
    normalization: Normalization
    takes_pixels: bool
    normalized: bool
    left_out: list[str]
    contents: str
    half: bool


def load_onnx(
    path: str | os.PathLike[str],
    *,
    output: str | None = None,
    input_size: Sequence[int] | None = None,
) -> OnnxNetwork:
    """Build a Keras model of what an ONNX file computes, operator by operator.

    Batch normalisation stays a layer with its statistics, convolutions into which it was folded
    have a bias. A dense layer behind a flattened map has its kernel reordered, for Keras keeps the
    channel last.

    Args:
        path: the file.
        output: the name of the embedding, where the file has several outputs.
        input_size: (height, width) of the faces, where the file leaves them open; 112x112 else,
            with a warning.

    Raises:
        ValueError: the file is damaged or no embedder, or has operators that are not imported: all
            of them are named.
        ImportError: the `export` extra is not installed.
        OSError: the file cannot be read.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), *layers])
    >>> _ = sf.export.export_onnx(network, "network.onnx", metadata=sf.embedder.EmbedderMetadata())
    >>> load_onnx("network.onnx").model.output_shape
    (None, 2288)
    """
    path = Path(path)
    proto = load_proto(path)
    graph = read_graph(proto, path, output)
    try:
        return _build(graph, path, input_size)
    except _UnknownOperatorError:
        simpler = _simplified(proto)
        if simpler is None:
            raise
        try:
            return _build(read_graph(simpler, path, output), path, input_size)
        except ValueError:
            pass  # the file's own operators tell more
        raise


def _simplified(proto: Any) -> Any:
    """Return the graph as onnxslim simplifies it; None where that is not there, or fails.

    It resolves what is decided by constants, such as an `If`. Nothing is merged: batch
    normalisation is to stay.
    """
    try:
        onnxslim = require("onnxslim", extra="export")
        registry = require("onnxslim.core.pattern.registry", extra="export")
        with _silent():
            return onnxslim.slim(proto, skip_fusion_patterns=list(registry.DEFAULT_FUSION_PATTERNS))
    except Exception:  # a library of heuristics on a graph from anywhere
        return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nothing:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            yield


def _build(graph: Graph, path: Path, input_size: Sequence[int] | None) -> OnnxNetwork:
    """Build the model of a graph."""
    contents = f"operator set {graph.opset}, {graph.kinds()}"
    graph.nodes = with_unit_length(graph)
    network = Network(graph, _image_size(graph, path, input_size))
    pending = _settle_constants(network, graph.nodes)
    _refuse_unknown(graph, pending, path)
    for node in pending:
        try:
            _add(network, node)
        except ValueError as caught:
            raise ValueError(f"{path}: {node} cannot be imported: {caught}") from caught
    embedding = network.values[graph.output]
    if not isinstance(embedding, Value):
        raise ValueError(f"{path}: its output {graph.output!r} does not depend on the image")
    if max(embedding.shape[1:], default=0) != embedding.count:
        shape = ("n", *embedding.shape[1:])
        raise ValueError(
            f"{path}: its output {graph.output!r} must be one vector per face. Received: {shape}, "
            "a map of features"
        )
    embedding = plain(reshaped(embedding, (embedding.shape[0], embedding.count)))
    if embedding.tensor is network.image:
        raise ValueError(f"{path}: it computes nothing")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("_.-") or "network"
    model = keras.Model(network.image, embedding.tensor, name=name)
    return OnnxNetwork(
        model=model,
        normalization=network.start,
        takes_pixels=graph.takes_pixels,
        normalized=ends_in_unit_length(graph),
        left_out=[f"output {name!r}" for name in graph.others],
        contents=(f"by {graph.producer}, " if graph.producer else "") + contents + _fixed(model),
        half=graph.half,
    )


def _fixed(model: keras.Model) -> str:
    """Say how many scales or offsets of channels are constants, such as slopes of a PReLU."""
    kind = keras.layers.Rescaling
    layers = [layer for layer in all_layers(model) if isinstance(layer, kind)]
    count = sum(max(np.size(layer.scale), np.size(layer.offset)) > 1 for layer in layers)
    if not count:
        return ""
    return f"; {count} Mul or Add by channel stay constants, which fine-tuning does not train"


def _add(network: Network, node: Node) -> None:
    """Build one operator."""
    if network.settled(node):
        return
    try:
        made = OPERATORS[node.kind](network, node)
    except (ArithmeticError, IndexError, KeyError, TypeError) as caught:
        # Attributes of the wrong type, inputs that are missing.
        raise ValueError(f"its inputs or attributes do not fit ({caught!r})") from caught
    for name, value in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
        network.values[name] = value


def _settle_constants(network: Network, nodes: list[Node]) -> list[Node]:
    """Compute all that depends on constants alone; return the other operators."""
    pending = []
    for node in nodes:
        names = list(filter(None, node.inputs))
        known = all(isinstance(network.values.get(name), np.ndarray) for name in names)
        if not (known and node.kind in FOLDED and network.settled(node)):
            pending.append(node)
    return pending


def _refuse_unknown(graph: Graph, pending: list[Node], path: Path) -> None:
    """Raise if operators are not imported, and name each kind once."""
    of_image = {graph.input}
    unknown: dict[str, list[Node]] = defaultdict(list)
    for node in pending:
        takes_image = bool(of_image.intersection(node.inputs))
        shape = node.kind in ("Shape", "Size")
        if takes_image and not shape:
            of_image.update(node.outputs)
        table: Any = OPERATORS if takes_image and not shape else FOLDED
        if node.kind not in table:
            unknown[node.kind].append(node)
    if not unknown:
        return
    listed = [
        f"{nodes[0]}" + (f" ({len(nodes)} of them)" if len(nodes) > 1 else "")
        for nodes in unknown.values()
    ]
    quantized = any("Quantize" in kind or "Integer" in kind for kind in unknown)
    advice = (
        "it is quantized: import the float file that it was made from"
        if quantized
        else "export the network without them, up to its embedding, by torch.onnx.export(..., "
        "dynamo=False) or for another operator set"
    )
    raise _UnknownOperatorError(
        f"{path}: operators that cannot be imported: {and_more(listed, 20)}. As it is the file can "
        f"be evaluated and used (tf_sphereface-eval, load_embedder). To train it, {advice}"
    )


def _image_size(graph: Graph, path: Path, given: Sequence[int] | None) -> tuple[int, int]:
    """Return (height, width) of the faces."""
    first = graph.shape[1] == 3 and graph.shape[3] != 3
    sides = graph.shape[2:] if first else graph.shape[1:3]
    if given is not None:
        size = check_image_size("input_size", given)
        if any(known not in (None, side) for known, side in zip(sides, size, strict=True)):
            shown = "x".join("any" if side is None else str(side) for side in sides)
            raise error("input_size", f"be the file's own, {shown}, or left out", size)
        return size
    if None in sides:
        warnings.warn(
            f"{path} takes faces of any size: 112x112 are taken, a guess. Say another by "
            "input_size (--input-size HxW)",
            SphereFaceWarning,
            stacklevel=5,
        )
    return sides[0] or _USUAL[0], sides[1] or _USUAL[1]


def pixel_facts(
    normalization: Normalization, mean: Any = 0.0, scale: Any = 1.0
) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Return (mean, scale) of a file's feeding, `(x - mean) / scale`, and then its own start."""
    mean, scale = (np.asarray(each, np.float64) for each in (mean, scale))
    return _short(mean + normalization.mean * scale), _short(scale * normalization.scale)


def _short(numbers: np.ndarray) -> float | tuple[float, ...]:
    """Round to the seven digits of float32: 1 / 0.003921569 is 255; one number where all agree."""
    rounded = [float(f"{number:.7g}") for number in np.ravel(numbers)]
    same = all(math.isclose(number, rounded[0], rel_tol=1e-6) for number in rounded)
    return rounded[0] if same else tuple(rounded)
