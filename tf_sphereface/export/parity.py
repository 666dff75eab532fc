"""Parity: how near a file comes to Keras on the same faces, and the limits for its kind."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import keras
import numpy as np

from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.export.options import FileOptions
from tf_sphereface.export.quiet import quiet

_MOST_RUNS = 40
_MOST_SECONDS = 1.5


class ExportError(RuntimeError):
    """A converter failed, or its file did not compute what Keras computes. No file was left."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """A file against Keras on the same faces.

    Attributes:
        finite: whether every element is a finite number.
        cosine_min: smallest cosine of a face's two embeddings.
        cosine_mean: their mean.
        spread_cosine: mean cosine after the mean embedding (by Keras) is subtracted from both. A
            file that answers every face alike has about 0 here even where its cosine is 0.99,
            as with an untrained network. NaN for fewer than four faces.
        max_abs: largest absolute difference of an element.
        max_relative: the same, as a fraction of the largest element by Keras.
        latency_ms: one face, one thread, median, in milliseconds.
        size_bytes: size of the file.
        faces: how many faces were compared.
    """

    finite: bool
    cosine_min: float
    cosine_mean: float
    spread_cosine: float
    max_abs: float
    max_relative: float
    latency_ms: float
    size_bytes: int
    faces: int


@dataclasses.dataclass(frozen=True)
class Limits:
    """The bounds that a kind of file must keep."""

    cosine_min: float
    cosine_mean: float
    spread_cosine: float
    max_relative: float
    bytes_per_weight: tuple[float, float]


# Chosen from measurements (docs/results/export.md): a factor of about five to ten in 1 - cosine
# below what sound files reach, and far above what broken ones reach (0.05 to 0.7).
LIMITS = {
    "none": Limits(0.99999, 0.99999, 0.999, 1e-3, (3.2, 4.8)),
    "float16": Limits(0.999, 0.9995, 0.99, 2e-2, (1.6, 2.8)),
    "dynamic": Limits(0.95, 0.98, 0.7, 0.5, (0.8, 2.2)),
    "int8": Limits(0.85, 0.95, 0.5, 0.7, (0.8, 2.2)),
}
_SPREAD_FACES = 4  # fewer have no spread to compare
_FIXED_BYTES = 256 * 1024  # graph, names, metadata


def reference_embedder(network: Embedder, file: EmbedderMetadata, options: FileOptions) -> Embedder:
    """Return what a file with that metadata should compute: the network and `options`."""
    return Embedder(_Wrapped(network, options), file, "keras", None, network.batch_size)


class _Wrapped:
    """A network with the mirror image and the norm added in NumPy."""

    def __init__(self, network: Embedder, options: FileOptions) -> None:
        self._network, self._options = network, options
        self.input_size = network.input_size
        self.embedding_dim = network.embedding_dim * (2 if options.flip_concat else 1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        vectors = self._network(images)
        if self._options.flip_concat:
            mirrored = self._network(np.ascontiguousarray(images[:, :, ::-1]))
            vectors = np.concatenate([vectors, mirrored], axis=1)
        if self._options.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def measure_parity(
    reference: Embedder | keras.Model,
    artifact: str | os.PathLike[str],
    faces: np.ndarray,
    latency: bool = True,
) -> Parity:
    """Run a file and Keras on the same faces; nothing is judged here.

    The file goes through `load_embedder`, as a user's would: in one batch (two, where there are
    enough faces) and one by one.

    Args:
        reference: what the file should compute: a backbone, or an embedder.
        artifact: a `.tflite` or `.onnx` file.
        faces: uint8 RGB, (n, height, width, 3), n at least 1.
        latency: whether to measure it; NaN otherwise.

    Raises:
        ExportError: the file does not run, or returns another shape; or Keras itself returns
            numbers that are not finite.
        ImportError: the `export` extra is not installed.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> _ = sf.export.export_onnx(network, "model.onnx", metadata=sf.embedder.EmbedderMetadata())
    >>> faces = sf.data.synthetic.faces([1, 2], [0, 0], size=(28, 24))
    >>> bool(measure_parity(network, "model.onnx", faces, latency=False).cosine_min > 0.9999)
    True
    """
    with quiet():  # TensorFlow warns when it traces many networks in turn
        expected = load_embedder(reference)(faces)
    if not np.isfinite(expected).all():
        raise ExportError("Keras itself returns numbers that are not finite for these faces")
    path = Path(artifact)
    try:
        with quiet():
            embedder = load_embedder(path, threads=1)
            actual = embedder(faces)
            single = embedder(faces[:1])
            elapsed = measure_latency(embedder, faces) if latency else float("nan")
    except ImportError:
        raise
    except Exception as caught:  # an engine may raise anything on a broken file
        raise ExportError(f"{path.name} does not run: {caught}") from caught
    if actual.shape != expected.shape or single.shape != expected[:1].shape:
        raise ExportError(
            f"{path.name} returns the shape {actual.shape} where Keras returns {expected.shape}"
        )
    actual = np.concatenate([single, actual[1:]])
    finite = bool(np.isfinite(actual).all())
    cosine = _cosine(expected, actual)
    center = expected.mean(axis=0)
    spread = _cosine(expected - center, actual - center)
    max_abs = float(np.abs(actual - expected).max())
    return Parity(
        finite=finite,
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        spread_cosine=float(spread.mean()) if len(faces) >= _SPREAD_FACES else float("nan"),
        max_abs=max_abs,
        max_relative=max_abs / max(float(np.abs(expected).max()), 1e-12),
        latency_ms=elapsed,
        size_bytes=path.stat().st_size,
        faces=len(faces),
    )


def require_parity(
    parity: Parity,
    quantize: str,
    parameters: int,
    float_layers: int = 0,
    others: int = 0,
) -> None:
    """Raise `ExportError` if a file is not finite, too far from Keras, or of an implausible size.

    `parameters` counts the network's weights, `others` those of them that are in no matrix: they
    stay in float, as slopes, or vanish, as normalisations. `float_layers` counts the layers of an
    int8 file in float.
    """
    limits = LIMITS[quantize]
    if not parity.finite:
        raise ExportError(f"the {quantize} file returns numbers that are not finite")
    low, high = limits.bytes_per_weight
    most = LIMITS["none"].bytes_per_weight[1]
    kernels = parameters - others
    low *= kernels
    high = (most if float_layers else high) * kernels + most * others + _FIXED_BYTES
    if not low <= parity.size_bytes <= high:
        raise ExportError(
            f"the {quantize} file has {parity.size_bytes:,} bytes, where {parameters:,} weights "
            f"should take {low:,.0f} to {high:,.0f}"
        )
    for name in ("cosine_min", "cosine_mean", "spread_cosine"):
        value, least = getattr(parity, name), getattr(limits, name)
        if name == "spread_cosine" and parity.faces < _SPREAD_FACES:
            continue
        if not value >= least:  # NaN too
            raise ExportError(
                f"the {quantize} file does not compute what Keras computes: {name} is "
                f"{value:.6f} over {parity.faces} faces, expected at least {least}"
            )
    if not parity.max_relative <= limits.max_relative:
        raise ExportError(
            f"the {quantize} file does not compute what Keras computes: an element is off by "
            f"{parity.max_relative:.2%} of the largest, expected at most {limits.max_relative:.2%}"
        )


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return row by row cosines in float64; 0 where a row is zero, NaN where it is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, 1e-30))


def measure_latency(embedder: Embedder, faces: np.ndarray) -> float:
    """Return the median milliseconds per face, one at a time or in the file's fixed batches.

    A `.tflite` or `.onnx` embedder should be opened with `threads=1`, a Keras one with
    `batch_size=1`, for it pads to its batch size and uses all cores. The first of `faces` is used.
    """
    batch = embedder.metadata.batch or 1
    face = np.repeat(faces[:1], batch, axis=0)
    for _ in range(3):
        embedder(face)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _MOST_RUNS and time.perf_counter() - start < _MOST_SECONDS:
        begin = time.perf_counter()
        embedder(face)
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3 / batch
