"""The steps that both formats share: convert, describe, run, compare, judge, and then rename."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import tempfile
import warnings
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
)
from tf_sphereface.embedder.model_card import write_card
from tf_sphereface.embedder.runtimes import to_network
from tf_sphereface.export.calibration_faces import (
    FEWEST_CALIBRATION_FACES,
    FaceSource,
    calibration_faces,
    probe_faces,
)
from tf_sphereface.export.equalization import equalized
from tf_sphereface.export.gate import Gate, GateFailed
from tf_sphereface.export.inference_graph import inference_graph
from tf_sphereface.export.job import KINDS, Format, Inputs, Job, LayerError
from tf_sphereface.export.options import FileOptions
from tf_sphereface.export.parity import (
    ExportError,
    measure_parity,
    reference_embedder,
    require_parity,
)
from tf_sphereface.export.quiet import quiet
from tf_sphereface.export.report import ExportReport
from tf_sphereface.utils.checks import check_integer, error
from tf_sphereface.utils.files import atomic_path, check_name, write_json
from tf_sphereface.utils.layer_checks import require_remakable
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning, and_more

logger = logging.getLogger("tf_sphereface")

_MOST_COMPARED = 64


@dataclasses.dataclass
class Checks:
    """Checks of a file before it appears, as the arguments of `export_tflite`."""

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
    options: FileOptions,
    checks: Checks,
) -> ExportReport:
    """Write one file and its JSON sidecar, or raise and leave everything as it was."""
    path = Path(path)
    kind = "none" if quantize is None else quantize
    _check_arguments(file_format, path, kind, calibration, checks)
    network = Embedder.in_memory(model, metadata, float32=True)
    require_remakable("model", network.backbone)
    _require_finite(network.backbone)
    known, size = network.metadata, network.input_size
    versions = {**known.versions, **library_versions(*file_format.libraries)}
    extra = {**known.extra, "export": {"format": file_format.name, "quantize": kind}}
    details = options.applied_to(dataclasses.replace(known, versions=versions, extra=extra))
    faces = probe_faces(size) if calibration is None else calibration_faces(calibration, size)
    _tell_few(kind, len(faces))
    with (
        _forgetting(model),
        tempfile.TemporaryDirectory(prefix="tf_sphereface-") as scratch,
        atomic_path(sidecar_path(path)) as sidecar,
        atomic_path(path) as temporary,
    ):
        job = Job(kind, Inputs(faces, details), options, Path(scratch), checks.progress)
        with _converting(kind, file_format.name):
            float_content = _to_float(file_format, model, network, faces, job)
        work = _Work(
            file_format,
            checks,
            float_content,
            details=details,
            network=network,
            faces=faces[:: -(-len(faces) // _MOST_COMPARED)],
            faces_from="synthetic" if calibration is None else "calibration",
            temporary=temporary,
        )
        content, report = work.within_bounds(job)
        told = {**details.extra["export"], **report.measured()}
        final = dataclasses.replace(details, extra={**details.extra, "export": told})
        temporary.write_bytes(file_format.embed(content, final.to_json()))
        if read_metadata(temporary) != final.as_read():
            raise ExportError(f"{path.name} did not keep its metadata")
        write_json(sidecar, dataclasses.asdict(final))
        parity = dataclasses.replace(report.parity, size_bytes=temporary.stat().st_size)
    write_card(path)
    left = _left_behind(known, details)
    for fact in left:
        warnings.warn(f"{path.name}: {fact}", SphereFaceWarning, stacklevel=3)
    return dataclasses.replace(report, path=path, parity=parity, left_behind=left)


def _tell_few(kind: str, faces: int) -> None:
    if kind == "int8" and faces < FEWEST_CALIBRATION_FACES:
        logger.warning(
            "int8 ranges are taken from %d faces, and compared on the same: other faces may go far "
            "beyond them. Give %d or more, of as many people, or check the file on pairs (gate)",
            faces,
            FEWEST_CALIBRATION_FACES,
        )


def _require_finite(backbone: keras.Model) -> None:
    """Refuse weights that are not numbers: a converter or an engine may even crash on them."""
    values = ((v.path, keras.ops.convert_to_numpy(v)) for v in backbone.variables)
    wrong = [path for path, value in values if not np.isfinite(value).all()]
    if wrong:
        raise ExportError(
            f"{len(wrong)} weights of the model are not finite ({and_more(wrong, 3)}): its "
            "training has diverged. Export an earlier state"
        )


def _left_behind(network: EmbedderMetadata, file: EmbedderMetadata) -> tuple[str, ...]:
    """Return what the network's metadata say that does not hold for the file, in words."""
    if network.threshold is None or file.threshold is not None:
        return ()
    now = "has the mirror image built in" if file.flip_built_in else "scales each to unit length"
    return (
        f"the threshold {network.threshold:.4f} is left out: it was measured with flip "
        f"{network.flip!r}, and the file {now}; tf_sphereface-eval calibrate measures one for it",
    )


def _check_arguments(
    file_format: Format, path: Path, kind: str, calibration: FaceSource | None, checks: Checks
) -> None:
    if kind not in KINDS[file_format.name]:
        listed = ", ".join(map(repr, KINDS[file_format.name]))
        raise error("quantize", f"be one of {listed} for .{file_format.name} files", kind)
    if path.suffix != f".{file_format.name}":
        raise error("path", f"end in .{file_format.name}", str(path))
    check_name(path)
    if kind == "int8" and calibration is None:
        raise ValueError(
            "Argument `calibration` must hold faces for quantize='int8': an array (uint8, aligned, "
            "n x height x width x 3), a folder, or an iterable of batches. Received: None"
        )
    if (checks.explain or checks.float_layers) and kind != "int8":
        name = "explain" if checks.explain else "float_layers"
        raise ValueError(f"Argument `{name}` is for quantize='int8'. Received: quantize={kind!r}")


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes one kind of file from the float32 file, again and again where need be."""

    file_format: Format
    checks: Checks
    float_content: bytes
    details: EmbedderMetadata
    network: Embedder
    faces: np.ndarray
    faces_from: str
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
        parity = measure_parity(reference, self.temporary, self.faces)
        backbone, kept = self.network.backbone, len(job.float_layers)
        others = [w.shape for w in backbone.weights if not w.name.endswith("kernel")]
        beside = sum(map(math.prod, others)) if len(others) < len(backbone.weights) else 0
        require_parity(parity, job.kind, backbone.count_params(), float_layers=kept, others=beside)
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
            faces_from=self.faces_from,
            gate=result,
            partitions=partitions,
            float_layers=job.float_layers,
            layers=layers,
        )


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
_FLOAT = weakref.WeakKeyDictionary[keras.Model, dict[str, tuple[str, bytes]]]()


@contextlib.contextmanager
def _forgetting(model: keras.Model) -> Iterator[None]:
    """Forget a model's conversions on an error: a bad one must not spoil the next export."""
    try:
        yield
    except BaseException:
        _FLOAT.pop(model, None)
        raise


def _to_float(
    file_format: Format, model: keras.Model, network: Embedder, faces: np.ndarray, job: Job
) -> bytes:
    """Return the float32 file: that of the last export of `model`, or a new one."""
    backbone, metadata = network.backbone, network.metadata
    if job.kind == "int8":
        backbone = equalized(backbone, to_network(faces, metadata))
    fingerprint = _fingerprint(backbone, metadata, job.options)
    stored = _FLOAT.setdefault(model, {})
    if stored.get(file_format.name, ("",))[0] != fingerprint:
        with quiet():
            graph = inference_graph(backbone, metadata.input_size, job.options, metadata)
            stored[file_format.name] = (fingerprint, file_format.to_float(graph, job.scratch))
    return stored[file_format.name][1]


def _fingerprint(backbone: keras.Model, network: EmbedderMetadata, options: FileOptions) -> str:
    """Return a hash of everything that the float32 file is made from."""
    pixels = (network.channel_order, network.pixel_mean, network.pixel_scale)
    start = f"{network.input_size}{pixels}{options}{backbone.to_json()}"
    digest = hashlib.sha256(start.encode())
    for weight in backbone.weights:
        digest.update(np.asarray(weight.numpy()).tobytes())
    return digest.hexdigest()
