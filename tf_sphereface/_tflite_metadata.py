"""Text inside a TensorFlow Lite file: a metadata buffer, by the format's own schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tf_sphereface._extras import require

METADATA_NAME = "tf_sphereface"
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # bytes; the schema's force_align of a buffer's data


def read_tflite_metadata(path: str | os.PathLike[str]) -> str | None:
    """Return the text stored under the name `tf_sphereface` in a TensorFlow Lite file.

    Args:
        path: a `.tflite` file.

    Returns:
        The text, or None where the file carries none.

    Raises:
        ValueError: the file is not a TensorFlow Lite model.
        ImportError: the `export` extra is not installed.
    """
    content = Path(path).read_bytes()
    _check_identifier(content, str(path))
    schema = _schema()
    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == METADATA_NAME.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode("utf-8")
    return None


def add_tflite_metadata(model_bytes: bytes, text: str) -> bytes:
    """Return a TensorFlow Lite model with `text` stored under the name `tf_sphereface`.

    Older text under that name is replaced. The tensors' data stays aligned to 16 bytes, as the
    format asks (the generated packer alone would align it to 4).

    Args:
        model_bytes: the content of a `.tflite` file.
        text: any text that is not empty; the package stores JSON.

    Returns:
        The content of the new file.

    Raises:
        ValueError: `model_bytes` is not a TensorFlow Lite model, or `text` is empty.
        ImportError: the `export` extra is not installed.
    """
    _check_identifier(model_bytes, "model_bytes")
    if not text:
        raise ValueError("text must not be empty. Received: ''")
    import numpy as np

    schema = _schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(model_bytes), 0))
    data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
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
