"""Make a file say what it is: inside it, and in a JSON file beside it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import keras

from tf_sphereface._artifact import (
    add_onnx_metadata,
    library_versions,
    sidecar_path,
    sidecar_text,
)
from tf_sphereface._tflite_metadata import add_tflite_metadata
from tf_sphereface.embedder import EmbedderMetadata, load_embedder

__all__ = [
    "describe",
    "embed_in_onnx",
    "embed_in_tflite",
    "sidecar_path",
    "sidecar_text",
    "with_checks",
]

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
