"""The steps that both formats share: convert, describe, run, compare, judge, and then rename."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.embedder.metadata import (
    EmbedderMetadata,
    library_versions,
    read_metadata,
    sidecar_path,
    sidecar_text,
)
from tf_sphereface.embedder.model_card import write_card
from tf_sphereface.export.calibration_faces import FaceSource, calibration_faces, probe_faces
from tf_sphereface.export.gate import Gate, GateFailed
from tf_sphereface.export.inference_graph import inference_graph
from tf_sphereface.export.job import Format, Inputs, Job, LayerError
from tf_sphereface.export.options import Options
from tf_sphereface.export.parity import (
    ExportError,
    measure_parity,
    reference_embedder,
    require_parity,
)
from tf_sphereface.export.quiet import quiet
from tf_sphereface.export.report import ExportReport
from tf_sphereface.utils.checks import check_integer, error
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.messages import ProgressCallback

_MOST_COMPARED = 64


@dataclasses.dataclass
class Checks:
    """Checks of a file before it appears.

    Attributes:
        gate: pairs of faces, or None.
        explain: whether every layer's error is measured (int8).
        float_layers: how many of the worst layers may stay in float where a check fails (int8).
        progress: called with (faces done, faces in all) during calibration.
    """

    gate: Gate | None = None
    explain: bool = False
    float_layers: int = 0
    progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        self.float_layers = check_integer("float_layers", self.float_layers, 0)


def export(
    file_format: Format,
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None,
    calibration: FaceSource | None,
    metadata: EmbedderMetadata | None,
    options: Options,
    checks: Checks,
) -> ExportReport:
    """Write one file and its JSON sidecar, or raise and leave everything as it was."""
    path = Path(path)
    kind = file_format.kind(quantize)
    _check_arguments(file_format, path, kind, calibration, checks)
    network = Embedder.in_memory(model, metadata, float32=True)
    described = _described(network.metadata, file_format, kind)
    faces = None
    if calibration is not None:
        faces = calibration_faces(calibration, network.input_size)
    with (
        _forgetting(model),
        tempfile.TemporaryDirectory(prefix="tf_sphereface-") as scratch,
        atomic_path(sidecar_path(path)) as sidecar,
        atomic_path(path) as temporary,
    ):
        details = options.applied_to(described)
        inputs = None if faces is None else Inputs(faces, details)
        job = Job(kind, inputs, options, Path(scratch), checks.progress)
        with _converting(kind, file_format.name):
            float_content = _to_float(file_format, model, network, job)
        work = _Work(file_format, checks, float_content, details, network, faces, temporary)
        content, report = work.within_bounds(job)
        told = {**details.extra["export"], **report.measured()}
        final = dataclasses.replace(details, extra={**details.extra, "export": told})
        temporary.write_bytes(file_format.embed(content, final.to_json()))
        if read_metadata(temporary) != final:
            raise ExportError(f"{path.name} did not keep its metadata")
        sidecar.write_text(sidecar_text(final), encoding="utf-8")
        parity = dataclasses.replace(report.parity, size_bytes=temporary.stat().st_size)
    write_card(path)
    return dataclasses.replace(report, path=path, parity=parity)


def _check_arguments(
    file_format: Format, path: Path, kind: str, calibration: FaceSource | None, checks: Checks
) -> None:
    if path.suffix != f".{file_format.name}":
        raise error("path", f"end in .{file_format.name}", str(path))
    if kind == "int8" and calibration is None:
        raise ValueError(
            "Argument `calibration` must hold faces for quantize='int8': an array (uint8, aligned, "
            "n x height x width x 3), a folder, or an iterable of batches. Received: None"
        )
    if (checks.explain or checks.float_layers) and kind != "int8":
        name = "explain" if checks.explain else "float_layers"
        raise ValueError(f"Argument `{name}` is for quantize='int8'. Received: quantize={kind!r}")


def _described(network: EmbedderMetadata, file_format: Format, kind: str) -> EmbedderMetadata:
    """Return the network's metadata with the writing libraries and the kind of file."""
    versions = {**network.versions, **library_versions(*file_format.libraries)}
    extra = {**network.extra, "export": {"format": file_format.name, "quantize": kind}}
    return dataclasses.replace(network, versions=versions, extra=extra)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes one kind of file from the float32 file, again and again where need be."""

    file_format: Format
    checks: Checks
    float_content: bytes
    details: EmbedderMetadata
    network: Embedder
    faces: np.ndarray | None
    temporary: Path

    def within_bounds(self, job: Job) -> tuple[bytes, ExportReport]:
        """Return a file that passes; leave 1, 2, 4, ... of the worst layers in float for that."""
        kept, ranked = 0, list[str]()
        while True:
            job = dataclasses.replace(job, float_layers=tuple(ranked[:kept]))
            content = self._convert(job)
            try:
                return content, self._check(content, job)
            except ExportError:
                if not ranked and self.checks.float_layers:
                    ranked = [layer.name for layer in self._explain(content, job)]
                most = min(self.checks.float_layers, len(ranked))
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

    def _check(self, content: bytes, job: Job) -> ExportReport:
        """Measure a file; raise where it does not compute what Keras computes."""
        with _converting(job.kind, self.file_format.name):
            described = self.file_format.embed(content, self.details.to_json())
        self.temporary.write_bytes(described)
        reference = reference_embedder(self.network, self.details, job.options)
        parity = measure_parity(reference, self.temporary, self._compared())
        parameters = self.network.backbone.count_params()
        require_parity(parity, job.kind, parameters, float_layers=len(job.float_layers))
        result = None
        if self.checks.gate is not None:
            try:
                result = self.checks.gate.check(reference, self.temporary)
            except GateFailed as failed:
                size = f"{parity.size_bytes / 1e6:.2f} MB, {parity.latency_ms:.2f} ms per face"
                raise GateFailed(f"{failed}; {size}", failed.result) from failed
        layers = tuple(self._explain(content, job)) if self.checks.explain else None
        with quiet():
            partitions = self.file_format.partitions(content)
        return ExportReport(
            path=self.temporary,
            format=self.file_format.name,
            quantize=job.kind,
            parity=parity,
            faces_from="synthetic" if self.faces is None else "calibration",
            gate=result,
            partitions=partitions,
            float_layers=job.float_layers,
            layers=layers,
        )

    def _compared(self) -> np.ndarray:
        """Return the faces that Keras and the file are compared on."""
        if self.faces is None:
            return probe_faces(self.network.input_size)
        return self.faces[:: -(-len(self.faces) // _MOST_COMPARED)]


@contextlib.contextmanager
def _converting(kind: str, name: str) -> Iterator[None]:
    """Turn whatever a converter raises into an `ExportError`."""
    try:
        yield
    except (ImportError, OSError, MemoryError, ExportError):
        raise
    except Exception as caught:
        raise ExportError(
            f"the {kind} .{name} file could not be made: {type(caught).__name__}: {caught}"
        ) from caught


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


def _to_float(file_format: Format, model: keras.Model, network: Embedder, job: Job) -> bytes:
    """Return the float32 file: that of the last export of `model`, or a new one."""
    backbone, metadata = network.backbone, network.metadata
    fingerprint = _fingerprint(backbone, metadata, job.options)
    stored = _FLOAT.setdefault(model, {})
    if stored.get(file_format.name, ("",))[0] != fingerprint:
        with quiet():
            graph = inference_graph(backbone, metadata.input_size, job.options, metadata)
            stored[file_format.name] = (fingerprint, file_format.to_float(graph, job.scratch))
    return stored[file_format.name][1]


def _fingerprint(backbone: keras.Model, network: EmbedderMetadata, options: Options) -> str:
    """Return a hash of everything that the float32 file is made from."""
    pixels = (network.channel_order, network.pixel_mean, network.pixel_scale)
    start = f"{network.input_size}{pixels}{options}{backbone.to_json()}"
    digest = hashlib.sha256(start.encode())
    for weight in backbone.weights:
        digest.update(np.asarray(weight.numpy()).tobytes())
    return digest.hexdigest()
