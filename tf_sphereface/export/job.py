"""The formats as the pipeline sees them, and the jobs that it gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.embedder.runtimes import full_batch, to_network
from tf_sphereface.export.inference_graph import INPUT_NAME
from tf_sphereface.export.options import FileOptions
from tf_sphereface.utils.messages import ProgressCallback

KINDS = {"tflite": ("none", "float16", "dynamic", "int8"), "onnx": ("none", "float16", "int8")}
FACES_PER_SAMPLE = 4  # whose extremes are one sample of a tensor's range
EXPLAINED_FACES = 8  # whose activations are compared layer by layer


class Inputs:
    """uint8 RGB faces (n, height, width, 3) as the converted network's inputs, made when asked."""

    def __init__(self, faces: np.ndarray, metadata: EmbedderMetadata) -> None:
        self._faces, self._metadata = faces, metadata
        self.batch = metadata.batch

    def __len__(self) -> int:
        return len(self._faces)

    def take(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Return a batch; the last face is repeated where a fixed batch is not filled."""
        faces = self._faces[start : start + count]
        if self.batch is not None:
            faces = full_batch(faces, self.batch)
        values = to_network(faces, self._metadata)
        if self._metadata.layout == "nchw":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        return {INPUT_NAME: values}

    def pieces(self, start: int, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield faces `start` to `start + count` in batches that the file takes."""
        stop = min(start + count, len(self))
        step = self.batch or count
        for first in range(start, stop, step):
            yield self.take(first, min(step, stop - first))


@dataclasses.dataclass(frozen=True)
class Job:
    """One quantisation: its `kind` is a value of `quantize`, not `"none"`.

    The converters may write into `scratch`; `float_layers` names the layers that stay in float.
    """

    kind: str
    inputs: Inputs
    options: FileOptions
    scratch: Path
    progress: ProgressCallback | None
    float_layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LayerError:
    """One convolution or matrix of an int8 file, against the float32 file on the same faces.

    Errors are norms of differences over the norm of the float activation, averaged over the faces.

    Attributes:
        name: of the layer's output in the file.
        operator: such as `"CONV_2D"` or `"Conv"`.
        error: of the layer's output, with all that came before it.
        added: what the layer itself adds to the error of its input: `sqrt(error^2 - input^2)`, 0
            where the error falls.
        in_float: whether the layer was left in float.
    """

    name: str
    operator: str
    error: float
    added: float
    in_float: bool = False


def rank_layers(
    layers: list[tuple[str, str, str]], errors: dict[str, float], in_float: tuple[str, ...]
) -> list[LayerError]:
    """Return the layers, given as (operator, its input, its output), those that add most first.

    Example:

    >>> ranked = rank_layers([("Conv", "x", "a"), ("Conv", "a", "b")], {"a": 0.3, "b": 0.5}, ())
    >>> [(layer.name, round(layer.added, 3)) for layer in ranked]
    [('b', 0.4), ('a', 0.3)]
    """
    ranked = []
    for operator, source, name in layers:
        if name not in errors:
            continue
        before = errors.get(source, 0.0)
        added = max(errors[name] ** 2 - before**2, 0.0) ** 0.5
        ranked.append(LayerError(name, operator, errors[name], added, name in in_float))
    return sorted(ranked, key=lambda layer: -layer.added)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    expected = np.asarray(expected, np.float64).ravel()
    difference = np.asarray(actual, np.float64).ravel() - expected
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected)), 1e-30))


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format, whose name is the suffix too: its converters, and how it carries metadata.

    `libraries` are the distributions whose versions its files name. `quantize` takes the float32
    file's content, `explain` that and the int8 file's. `partitions` returns the number of pieces
    that a delegate runs, None where there is none.
    """

    name: str
    libraries: tuple[str, ...]
    to_float: Callable[[keras.Model, Path], bytes]
    quantize: Callable[[bytes, Job], bytes]
    embed: Callable[[bytes, str], bytes]
    explain: Callable[[bytes, bytes, Job], list[LayerError]]
    partitions: Callable[[bytes], int | None]
