"""What both formats share: convert, describe, run, compare, judge, and only then rename."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import math
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface.embedder.embedder import (
    Embedder,
    EmbedderMetadata,
    as_backbone,
    in_float32,
    load_embedder,
    read_metadata,
)
from tf_sphereface.embedder.metadata import (
    add_onnx_metadata,
    add_tflite_metadata,
    library_versions,
    sidecar_path,
    sidecar_text,
)
from tf_sphereface.embedder.model_card import write_card
from tf_sphereface.export.calibration_faces import FaceSource, calibration_faces, probe_faces
from tf_sphereface.export.gate import Gate, GateFailed, GateResult
from tf_sphereface.export.inference_graph import inference_graph
from tf_sphereface.export.job import Format, Inputs, Job, LayerError, Progress
from tf_sphereface.export.options import Options
from tf_sphereface.export.parity import (
    ExportError,
    Parity,
    compare,
    reference_embedder,
    require_parity,
)
from tf_sphereface.export.quiet import quiet
from tf_sphereface.export.report import ExportReport
from tf_sphereface.utils.files import atomic_path

_MOST_COMPARED = 64


@dataclasses.dataclass(frozen=True)
class Checks:
    """What is looked at before a file appears.

    Attributes:
        gate: pairs of faces, or None.
        explain: whether every layer's error is measured (int8).
        float_layers: how many of the worst layers may stay in float where a check fails (int8).
        progress: called with (faces done, faces in all) during calibration.
    """

    gate: Gate | None = None
    explain: bool = False
    float_layers: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.float_layers, int) or self.float_layers < 0:
            raise ValueError(f"float_layers must be 0 or more. Received: {self.float_layers!r}")


def export(
    file_format: Format,
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None,
    calibration: FaceSource | None,
    metadata: EmbedderMetadata | None,
    options: Options,
    checks: Checks,
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
    if (checks.explain or checks.float_layers) and kind != "int8":
        name = "explain" if checks.explain else "float_layers"
        raise ValueError(f"{name} is for quantize='int8'. Received: quantize={quantize!r}")
    backbone = in_float32(as_backbone(model))
    network = describe(backbone, metadata, format=file_format.name, quantize=kind)
    calibrate = None
    if calibration is not None:
        calibrate = calibration_faces(calibration, network.input_size)
    with (
        _forgetting(model),
        tempfile.TemporaryDirectory(prefix="tf_sphereface-") as scratch,
        atomic_path(sidecar_path(path)) as sidecar,
        atomic_path(path) as temporary,
    ):
        details = options.applied_to(network)
        inputs = None if calibrate is None else Inputs(calibrate, details)
        job = Job(kind, inputs, options, Path(scratch), checks.progress)
        with _converting(kind, file_format.name):
            content = _to_float(file_format, model, backbone, network, job)
        reference = reference_embedder(backbone, network, details, options)
        parameters = sum(math.prod(weight.shape) for weight in backbone.weights)
        work = _Work(
            file_format, job, content, details, reference, calibrate, temporary, parameters
        )
        made = work.within_bounds(checks)
        report = ExportReport.from_parity(
            made.parity,
            path=path,
            format=file_format.name,
            quantize=kind,
            faces_from="synthetic" if calibrate is None else "calibration",
            accuracy=made.accuracy,
            partitions=made.partitions,
            float_layers=made.float_layers,
            layers=made.layers,
        )
        measured = {key: v for key, v in report.to_dict().items() if key not in _NOT_IN_FILE}
        final = with_checks(details, measured)
        temporary.write_bytes(file_format.embed(made.content, final))
        if read_metadata(temporary) != final:
            raise ExportError(f"{path.name} did not keep its metadata")
        sidecar.write_text(sidecar_text(final), encoding="utf-8")
        size = temporary.stat().st_size
    write_card(path)
    return dataclasses.replace(report, size_bytes=size)


_NOT_IN_FILE = ("path", "format", "quantize", "size_bytes", "layers")


@dataclasses.dataclass(frozen=True)
class _Made:
    """A file's content and what was measured on it."""

    content: bytes
    parity: Parity
    accuracy: GateResult | None
    partitions: int | None
    float_layers: tuple[str, ...]
    layers: tuple[LayerError, ...] | None


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes one kind of file from the float32 file, again and again where need be."""

    file_format: Format
    job: Job
    float_content: bytes
    details: EmbedderMetadata
    reference: Embedder
    calibration: np.ndarray | None
    temporary: Path
    parameters: int

    def within_bounds(self, checks: Checks) -> _Made:
        """Return a file that passes; leave 1, 2, 4, ... of the worst layers in float for that."""
        kept, ranked = 0, list[str]()
        while True:
            job = dataclasses.replace(self.job, float_layers=tuple(ranked[:kept]))
            content = self._convert(job)
            try:
                return self._check(content, job, checks)
            except ExportError:
                if not ranked and checks.float_layers:
                    ranked = [layer.name for layer in self._explain(content, job)]
                most = min(checks.float_layers, len(ranked))
                if kept >= most:
                    raise
                kept = min(max(2 * kept, 1), most)

    def _convert(self, job: Job) -> bytes:
        if job.kind == "none":
            return self.float_content
        with _converting(job.kind, self.file_format.name):
            return self.file_format.quantize(self.float_content, job)

    def _explain(self, content: bytes, job: Job) -> list[LayerError]:
        with _converting(job.kind, self.file_format.name):
            return self.file_format.explain(self.float_content, content, job)

    def _check(self, content: bytes, job: Job, checks: Checks) -> _Made:
        with _converting(job.kind, self.file_format.name):
            described = self.file_format.embed(content, self.details)
        self.temporary.write_bytes(described)
        parity = compare(self.reference, self.temporary, self._faces())
        require_parity(parity, job.kind, self.parameters, float_layers=len(job.float_layers))
        accuracy = None
        if checks.gate is not None:
            try:
                accuracy = checks.gate.check(self.reference, self.temporary)
            except GateFailed as error:
                measured = f"{parity.size_bytes / 1e6:.2f} MB, {parity.latency_ms:.2f} ms a face"
                raise GateFailed(f"{error}; {measured}", error.result) from error
        layers = tuple(self._explain(content, job)) if checks.explain else None
        with quiet():
            partitions = self.file_format.partitions(content)
        return _Made(content, parity, accuracy, partitions, job.float_layers, layers)

    def _faces(self) -> np.ndarray:
        if self.calibration is None:
            return probe_faces(self.reference.input_size)
        return self.calibration[:: -(-len(self.calibration) // _MOST_COMPARED)]


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
    network: EmbedderMetadata,
    job: Job,
) -> bytes:
    fingerprint = _fingerprint(backbone, network, job.options)
    known = _FLOAT.setdefault(model, {})
    if known.get(file_format.name, ("",))[0] != fingerprint:
        with quiet():
            graph = inference_graph(backbone, network.input_size, job.options, network)
            known[file_format.name] = (fingerprint, file_format.to_float(graph, job.scratch))
    return known[file_format.name][1]


def _fingerprint(backbone: keras.Model, network: EmbedderMetadata, options: Options) -> str:
    """Return a hash of everything that the float32 file is made from."""
    pixels = (network.channel_order, network.pixel_mean, network.pixel_scale)
    start = f"{network.input_size}{pixels}{options}{backbone.to_json()}"
    digest = hashlib.sha256(start.encode())
    for weight in backbone.weights:
        digest.update(np.asarray(weight.numpy()).tobytes())
    return digest.hexdigest()


_CONVERTERS = {
    "tflite": ("tensorflow", "litert-quantizer", "ai-edge-litert"),
    "onnx": ("tf2onnx", "onnx", "onnxslim", "onnxruntime"),
}


def describe(
    backbone: keras.Model,
    metadata: EmbedderMetadata | None,
    *,
    format: str,
    quantize: str,
) -> EmbedderMetadata:
    """Return the metadata that an exported file gets, its measurements aside.

    Args:
        backbone: the network; input size and embedding length are taken from it.
        metadata: what is known about it; None: the project's defaults.
        format: `"tflite"` or `"onnx"`.
        quantize: the kind of file.

    Returns:
        A copy with the library versions filled in and `extra["export"]` begun.
    """
    known = load_embedder(backbone).metadata
    base = metadata or known
    height, width, _ = backbone.inputs[0].shape[1:]
    size = (height or base.input_size[0], width or base.input_size[1])
    versions = {**base.versions, **library_versions(), **_versions(_CONVERTERS[format])}
    return dataclasses.replace(
        base,
        input_size=size,
        embedding_dim=known.embedding_dim,
        versions=versions,
        extra={**base.extra, "export": {"format": format, "quantize": quantize}},
    )


def with_checks(metadata: EmbedderMetadata, checks: dict[str, Any]) -> EmbedderMetadata:
    """Return the metadata with what was measured on the file under `extra["export"]`."""
    export = {**metadata.extra.get("export", {}), **checks}
    return dataclasses.replace(metadata, extra={**metadata.extra, "export": export})


def embed_in_tflite(content: bytes, metadata: EmbedderMetadata) -> bytes:
    """Return a TensorFlow Lite file with the metadata in the buffer named `tf_sphereface`."""
    return add_tflite_metadata(content, metadata.to_json())


def embed_in_onnx(content: bytes, metadata: EmbedderMetadata) -> bytes:
    """Return an ONNX file with the metadata in the property named `tf_sphereface`."""
    return add_onnx_metadata(content, metadata.to_json())


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
