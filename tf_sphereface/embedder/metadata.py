"""Metadata of an embedding model, in `.keras`, `.tflite` and `.onnx` files."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tf_sphereface.backbones.remembered_metadata import metadata_text
from tf_sphereface.utils.checks import check_choice, check_image_size, check_integer, error
from tf_sphereface.utils.files import short_name, without_nan
from tf_sphereface.utils.optional import require

METADATA_NAME = "tf_sphereface"
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # bytes; the schema's force_align of a buffer's data


@dataclasses.dataclass
class EmbedderMetadata:
    """How to feed an embedding model and where it comes from.

    Args:
        input_size: height and width of the aligned face, in pixels.
        embedding_dim: length of the embedding; None until a model is saved with it.
        channel_order: `"rgb"` or `"bgr"`, the order in which the network takes the channels.
        pixel_mean: subtracted from the 0..255 pixel; one number, or three in the network's order.
        pixel_scale: what the difference is divided by, likewise.
        template: name of the alignment template, such as `"112x96"`.
        normalized: whether the network's own output has unit length.
        flip: what verification adds at test time and what `threshold` was measured with:
            `"none"`, `"concat"` (image and mirror image, concatenated) or `"sum"`.
        architecture: name of the network, such as `"SphereFaceNet-20"`.
        loss: name of the training loss.
        margin: the angular margin of that loss.
        training_data: what it was trained on, in words.
        threshold: cosine from which two faces count as one person, in [-1, 1]; None if unknown.
        threshold_far: the false accept rate (a fraction) that the threshold was chosen for.
        source_hash: SHA-256 of the file that this artifact was made from.
        versions: name -> version of the libraries that wrote it.
        extra: anything else that JSON can hold.
        input_dtype: what the network takes: `"float32"`, or `"uint8"` where it normalises the
            pixels itself (`pixel_mean` is 0 then, and `pixel_scale` 1).
        layout: order of the input's axes: `"nhwc"` or `"nchw"`.
        batch: how many faces the file takes at once; None: any number.
        flip_built_in: whether the network embeds the mirror image as well, so that its output is
            both embeddings, concatenated, `embedding_dim` long together.
        assumed: names of fields above that nobody has stated: guesses, which every opening of the
            model says aloud.

    Raises:
        ValueError: a field is outside its range.

    Example:

    >>> EmbedderMetadata.from_json(EmbedderMetadata(embedding_dim=128).to_json()).embedding_dim
    128
    """

    input_size: tuple[int, int] = (112, 96)
    embedding_dim: int | None = None
    channel_order: str = "rgb"
    pixel_mean: float | tuple[float, ...] = 127.5
    pixel_scale: float | tuple[float, ...] = 128.0
    template: str | None = "112x96"
    normalized: bool = False
    flip: str = "none"
    architecture: str | None = None
    loss: str | None = None
    margin: float | None = None
    training_data: str | None = None
    threshold: float | None = None
    threshold_far: float | None = None
    source_hash: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    input_dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["nhwc", "nchw"] = "nhwc"
    batch: int | None = None
    flip_built_in: bool = False
    assumed: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.input_size = check_image_size("input_size", self.input_size)
        self.pixel_mean = _per_channel("pixel_mean", self.pixel_mean)
        self.pixel_scale = _per_channel("pixel_scale", self.pixel_scale)
        check_choice("channel_order", self.channel_order, ("rgb", "bgr"))
        check_choice("flip", self.flip, ("none", "concat", "sum"))
        check_choice("input_dtype", self.input_dtype, ("float32", "uint8"))
        check_choice("layout", self.layout, ("nhwc", "nchw"))
        if self.batch is not None:
            self.batch = check_integer("batch", self.batch, 1)
        self.assumed = [str(name) for name in self.assumed or ()]
        if self.threshold is not None and not _lies_within(self.threshold, -1.0, 1.0):
            raise error("threshold", "be a cosine in [-1, 1]", self.threshold)
        if self.threshold_far is not None and not _lies_within(self.threshold_far, 0.0, 1.0):
            raise error("threshold_far", "be a rate in [0, 1]", self.threshold_far)
        for name, kind in (("threshold", float), ("threshold_far", float), ("embedding_dim", int)):
            value = getattr(self, name)  # NumPy's numbers are no JSON
            setattr(self, name, None if value is None else kind(value))

    def to_json(self) -> str:
        """Return the fields as JSON text."""
        return json.dumps(without_nan(dataclasses.asdict(self)), indent=1, allow_nan=False)

    def as_read(self) -> EmbedderMetadata:
        """Return what a file gives back: lists for tuples, None for what is not finite."""
        return EmbedderMetadata.from_json(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> EmbedderMetadata:
        """Read what `to_json` wrote; keys of a later version are kept in `extra`.

        Raises:
            ValueError: the text is not a JSON object, or a field is outside its range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as caught:
            raise error("text", f"be JSON ({caught})", text[:80]) from caught
        if not isinstance(values, dict):
            raise error("text", "be a JSON object", text[:80])
        known = {field.name for field in dataclasses.fields(cls)}
        extra = dict(values.get("extra") or {})
        extra.update({key: value for key, value in values.items() if key not in known})
        fields = {key: value for key, value in values.items() if key in known}
        return cls(**{**fields, "extra": extra})


def _lies_within(value: Any, low: float, high: float) -> bool:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return real and bool(low <= value <= high)


def _per_channel(name: str, value: Any) -> float | tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else (value,)
    real = all(isinstance(n, int | float | np.number) and not isinstance(n, bool) for n in numbers)
    if len(numbers) not in (1, 3) or not real or not all(math.isfinite(n) for n in numbers):
        raise error(name, "be one number or three, finite", value)
    if name == "pixel_scale" and not all(number > 0 for number in numbers):
        raise error(name, "be positive", value)
    return float(numbers[0]) if len(numbers) == 1 else tuple(float(n) for n in numbers)


def artifact_format(path: Path) -> str:
    """Return `.keras`, `.tflite` or `.onnx`, having checked that the file exists."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        keras2 = " (an HDF5 file of Keras: load it, keras.models.load_model, and save a .keras)"
        wanted = f"end in {', '.join(_READERS)}{keras2 if suffix in ('.h5', '.hdf5') else ''}"
        raise error("path", wanted, str(path))
    if not path.is_file():
        raise FileNotFoundError(str(error("path", f"be an existing {suffix} file", str(path))))
    return suffix


def read_metadata(path: str | os.PathLike[str]) -> EmbedderMetadata | None:
    """Return the metadata inside a `.keras`, `.tflite` or `.onnx` file, or None where it has none.

    It is kept in the zip member `tf_sphereface.json`, in the metadata buffer named
    `tf_sphereface`, or in the metadata property of that name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of the format that its suffix promises, or its metadata is
            broken.
        ImportError: `.tflite` and `.onnx` need the `export` extra.

    Example:

    >>> import tempfile
    >>> import keras, tf_sphereface as sf
    >>> path = Path(tempfile.mkdtemp(), "embedder.keras")
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> sf.embedder.save_embedder(network, path, EmbedderMetadata(channel_order="bgr"))
    >>> read_metadata(path).channel_order
    'bgr'
    """
    path = Path(path)
    text = _READERS[artifact_format(path)](path)
    if text is None:
        return None
    try:
        return EmbedderMetadata.from_json(text)
    except (TypeError, ValueError) as caught:
        raise ValueError(f"{path}: its metadata cannot be read. {caught}") from caught


def sidecar_path(path: Path) -> Path:
    """Return where the JSON beside an exported file lies: its name with `.json` behind."""
    return path.with_name(short_name(path.name, ".json"))


def _read_keras(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file: expected the zip archive that model.save('x.keras') "
            f"writes. Received: a file of {path.stat().st_size} bytes that is no zip archive"
        )
    return metadata_text(path)


def _read_tflite(path: Path) -> str | None:
    content = path.read_bytes()
    _check_identifier(content, str(path))
    schema = _schema()
    try:
        model = schema.Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == METADATA_NAME.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode("utf-8")
    except (struct.error, IndexError, TypeError, AttributeError, UnicodeDecodeError) as caught:
        raise ValueError(
            f"{path} is a damaged TensorFlow Lite file, as a download that broke off. "
            f"Received: {len(content):,} bytes"
        ) from caught
    return None


def add_tflite_metadata(model_bytes: bytes, text: str) -> bytes:
    """Return a TensorFlow Lite model with `text`, not empty, stored under `tf_sphereface`.

    Older text under that name is replaced. The tensors' data stays aligned to 16 bytes, as the
    format asks (the generated packer alone would align it to 4).
    """
    _check_identifier(model_bytes, "model_bytes")
    if not text:
        raise error("text", "not be empty", text)
    schema = _schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(model_bytes), 0))
    data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    for buffer in model.buffers:  # some converters put them behind the flatbuffer
        if buffer.data is None and buffer.offset > 1:
            outside = model_bytes[buffer.offset : buffer.offset + buffer.size]
            buffer.data = np.frombuffer(outside, dtype=np.uint8)
            buffer.offset = buffer.size = 0
    for entry in model.metadata or []:
        if entry.name in (METADATA_NAME, METADATA_NAME.encode()):
            model.buffers[entry.buffer].data = data
            break
    else:
        buffer = schema.BufferT()
        buffer.data = data
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name = METADATA_NAME
        entry.buffer = len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]
    builder = _aligned_builder(len(model_bytes) + len(data) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _aligned_builder(size: int) -> Any:
    """Return a flatbuffer builder that aligns byte vectors (the tensors' data) to 16 bytes."""
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802 (the library's name)
            if x.dtype.itemsize == 1:
                self.Prep(_ALIGNMENT, x.nbytes)
            return super().CreateNumpyVector(x)

    return AlignedBuilder(size)


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", extra="export")


def _check_identifier(content: bytes, name: str) -> None:
    if len(content) < 8 or bytes(content[4:8]) != _IDENTIFIER:
        raise ValueError(
            f"{name} is not a TensorFlow Lite model: expected the identifier 'TFL3' at byte 4. "
            f"Received: {bytes(content[4:8])!r} in {len(content)} bytes."
        )


def _read_onnx(path: Path) -> str | None:
    onnx = require("onnx", extra="export")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as caught:  # protobuf raises its own kinds
        raise ValueError(f"{path} is not an ONNX model. Received: {caught}") from caught
    for entry in model.metadata_props:
        if entry.key == METADATA_NAME:
            return str(entry.value)
    return None


def add_onnx_metadata(content: bytes, text: str) -> bytes:
    """Return an ONNX file with `text` in the property named `tf_sphereface`; older text goes."""
    onnx = require("onnx", extra="export")
    model = onnx.load_from_string(content)
    if any(tensor.external_data for tensor in model.graph.initializer):
        message = "Argument `content` must hold its weights. Received: a model of several files"
        raise ValueError(message)
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_NAME]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=METADATA_NAME, value=text)
    return bytes(model.SerializeToString())


# format -> the function that reads its metadata's text, None where the file carries none
_READERS = {".keras": _read_keras, ".tflite": _read_tflite, ".onnx": _read_onnx}


def library_versions(*others: str) -> dict[str, str]:
    """Return the versions of Python, of the libraries that shape a model, and of `others`.

    Example:

    >>> sorted(library_versions())
    ['keras', 'numpy', 'python', 'tensorflow', 'tf_sphereface']
    """
    versions = {"python": platform.python_version()}
    for name in ("tf_sphereface", "tensorflow", "keras", "numpy", *others):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
