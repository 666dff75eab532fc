"""What both formats share: convert, describe, run, compare, judge, and only then rename."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface._files import atomic_path
from tf_sphereface._runners import to_network
from tf_sphereface.cards import write_card
from tf_sphereface.embedder import (
    Embedder,
    EmbedderMetadata,
    as_backbone,
    in_float32,
    read_metadata,
)
from tf_sphereface.export._graph import INPUT_NAME, inference_graph
from tf_sphereface.export._quiet import quiet
from tf_sphereface.export.faces import FaceSource, calibration_faces, probe_faces
from tf_sphereface.export.gate import Gate
from tf_sphereface.export.metadata import describe, sidecar_path, sidecar_text, with_checks
from tf_sphereface.export.parity import (
    ExportError,
    Parity,
    compare,
    keras_embedder,
    require_parity,
)
from tf_sphereface.export.report import ExportReport

KINDS = ("none", "float16", "dynamic", "int8")
_MOST_COMPARED = 64

Progress = Callable[[int, int], None]


class Inputs(Sequence[dict[str, np.ndarray]]):
    """Calibration faces as the converted network's inputs, one face at a time, made when asked."""

    def __init__(self, faces: np.ndarray, metadata: EmbedderMetadata, name: str) -> None:
        self._faces, self._metadata, self._name = faces, metadata, name

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Inputs(self._faces[index], self._metadata, self._name)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {self._name: to_network(self._faces[index][np.newaxis], self._metadata)}


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format: its converters and how its files carry metadata.

    Attributes:
        name: `"tflite"` or `"onnx"`, which is the suffix too.
        kinds: the values of `quantize` that it knows.
        to_float: (graph, scratch folder) to the float32 file's content.
        quantize: (float32 content, kind, calibration inputs or None, scratch folder, progress) to
            the content of another kind.
        embed: (content, metadata) to the content with the metadata inside.
    """

    name: str
    kinds: tuple[str, ...]
    to_float: Callable[[keras.Model, Path], bytes]
    quantize: Callable[[bytes, str, Inputs | None, Path, Progress | None], bytes]
    embed: Callable[[bytes, EmbedderMetadata], bytes]

    def kind(self, quantize: str | None) -> str:
        """Return the kind's name, `"none"` for None; refuse what this format does not know."""
        kind = "none" if quantize is None else quantize
        if kind not in self.kinds:
            raise ValueError(
                f"quantize must be one of {', '.join(self.kinds)} for .{self.name} files. "
                f"Received: {quantize!r}"
            )
        return kind


def export(
    file_format: Format,
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None,
    calibration: FaceSource | None,
    metadata: EmbedderMetadata | None,
    gate: Gate | None,
    progress: Progress | None,
) -> ExportReport:
    """Write one file and its JSON sidecar, or raise and leave everything as it was."""
    path = Path(path)
    kind = file_format.kind(quantize)
    if path.suffix != f".{file_format.name}":
        raise ValueError(f"path must end in .{file_format.name}. Received: {str(path)!r}")
    if kind == "int8" and calibration is None:
        raise ValueError(
            "calibration is needed for quantize='int8': faces (uint8, aligned, n x height x width "
            "x 3), a folder of them, or an iterable of batches. Received: None"
        )
    backbone = in_float32(as_backbone(model))
    details = describe(backbone, metadata, format=file_format.name, quantize=kind)
    calibrate = None
    if calibration is not None:
        calibrate = calibration_faces(calibration, details.input_size)
    with (
        _forgetting(model),
        atomic_path(sidecar_path(path)) as sidecar,
        atomic_path(path) as temporary,
    ):
        inputs = None if calibrate is None else Inputs(calibrate, details, INPUT_NAME)
        content = _convert(file_format, model, backbone, kind, inputs, details, progress)
        with _converting(kind, file_format.name):
            described = file_format.embed(content, details)
        temporary.write_bytes(described)
        reference = keras_embedder(backbone, details)
        parity, faces_from = _compare(reference, temporary, calibrate)
        require_parity(parity, kind, sum(math.prod(weight.shape) for weight in backbone.weights))
        report = ExportReport.from_parity(
            parity,
            path=path,
            format=file_format.name,
            quantize=kind,
            faces_from=faces_from,
            accuracy=gate.check(reference, temporary) if gate is not None else None,
        )
        measured = {key: v for key, v in report.to_dict().items() if key not in _NOT_IN_FILE}
        final = with_checks(details, measured)
        temporary.write_bytes(file_format.embed(content, final))
        if read_metadata(temporary) != final:
            raise ExportError(f"{path.name} did not keep its metadata")
        sidecar.write_text(sidecar_text(final), encoding="utf-8")
        size = temporary.stat().st_size
    write_card(path)
    return dataclasses.replace(report, size_bytes=size)


_NOT_IN_FILE = ("path", "format", "quantize", "size_bytes")


def _convert(
    file_format: Format,
    model: keras.Model,
    backbone: keras.Model,
    kind: str,
    inputs: Inputs | None,
    metadata: EmbedderMetadata,
    progress: Progress | None,
) -> bytes:
    with (
        tempfile.TemporaryDirectory(prefix="tf_sphereface-") as scratch,
        _converting(kind, file_format.name),
    ):
        content = _to_float(file_format, model, backbone, metadata, Path(scratch))
        if kind == "none":
            return content
        return file_format.quantize(content, kind, inputs, Path(scratch), progress)


@contextlib.contextmanager
def _converting(kind: str, name: str) -> Iterator[None]:
    """Turn whatever a converter raises into an `ExportError`."""
    try:
        yield
    except (ImportError, OSError, MemoryError, ExportError):
        raise
    except Exception as error:
        raise ExportError(
            f"the {kind} .{name} file could not be made: {type(error).__name__}: {error}"
        ) from error


# model -> {format: (fingerprint, float32 content)}. Several kinds of one model start from the same
# float32 file, whose conversion takes most of the time.
_FLOAT: weakref.WeakKeyDictionary[keras.Model, dict[str, tuple[str, bytes]]]
_FLOAT = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _forgetting(model: keras.Model) -> Iterator[None]:
    """Forget a model's conversions on an error: a bad one must not spoil the next export."""
    try:
        yield
    except BaseException:
        _FLOAT.pop(model, None)
        raise


def _to_float(
    file_format: Format,
    model: keras.Model,
    backbone: keras.Model,
    metadata: EmbedderMetadata,
    scratch: Path,
) -> bytes:
    fingerprint = _fingerprint(backbone, metadata.input_size)
    known = _FLOAT.setdefault(model, {})
    if known.get(file_format.name, ("",))[0] != fingerprint:
        with quiet():
            graph = inference_graph(backbone, metadata.input_size)
            known[file_format.name] = (fingerprint, file_format.to_float(graph, scratch))
    return known[file_format.name][1]


def _fingerprint(backbone: keras.Model, input_size: tuple[int, int]) -> str:
    """Return a hash of everything that the float32 file is made from."""
    digest = hashlib.sha256(f"{input_size}{backbone.to_json()}".encode())
    for weight in backbone.weights:
        digest.update(np.asarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def _compare(reference: Embedder, file: Path, calibration: np.ndarray | None) -> tuple[Parity, str]:
    """Measure the file against Keras; return where the faces came from as well."""
    if calibration is None:
        return compare(reference, file, probe_faces(reference.input_size)), "synthetic"
    every = -(-len(calibration) // _MOST_COMPARED)
    return compare(reference, file, calibration[::every]), "calibration"
