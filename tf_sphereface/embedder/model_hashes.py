"""Hashes that tell whether a model is the one that something was made with."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

from tf_sphereface.backbones.remembered_metadata import KERAS_MEMBER
from tf_sphereface.embedder.input_facts import with_input_name
from tf_sphereface.embedder.metadata import (
    add_onnx_metadata,
    add_tflite_metadata,
    artifact_format,
    read_metadata,
)
from tf_sphereface.utils.files import sha256_file
from tf_sphereface.utils.optional import require

_INPUT = "the network's input"


def external_data_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files beside an ONNX model that hold its weights, if any do; else none."""
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        return []
    onnx = require("onnx", extra="export")
    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except Exception as caught:  # protobuf raises its own kinds
        raise ValueError(f"{path} is not an ONNX model. Received: {caught}") from caught
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return [path.parent / n for n in sorted({e.value for e in entries if e.key == "location"})]


def model_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a model's file, and of those beside it that hold its weights."""
    others = external_data_files(path)
    own = sha256_file(path)
    if not others:
        return own
    hashes = [own, *(sha256_file(other) for other in others)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def network_sha256(path: str | os.PathLike[str], *, as_named: bool = False) -> str:
    """Return the SHA-256 of a model's file without the metadata in it, 64 hexadecimal digits.

    It stays as it is when a model is calibrated or described, which names a Keras network's input.
    `as_named`, as the first version did, takes that name as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of the format that its suffix promises, or is one of several.
        ImportError: `.tflite` and `.onnx` need the `export` extra.
    """
    path = Path(path)
    suffix = artifact_format(path)
    digest = hashlib.sha256()
    if suffix == ".keras":
        read_metadata(path)
        with zipfile.ZipFile(path) as archive:
            for name in sorted(set(archive.namelist()) - {KERAS_MEMBER}):
                if name == "config.json" and not as_named:
                    digest.update(_without_input_name(archive.read(name)))
                    continue
                digest.update(f"{name} {archive.getinfo(name).file_size}".encode())
                with archive.open(name) as member:
                    while block := member.read(1 << 20):
                        digest.update(block)
    else:  # written anew with another text: in one order, whoever wrote it
        add = add_tflite_metadata if suffix == ".tflite" else add_onnx_metadata
        digest.update(add(path.read_bytes(), "-"))
    return digest.hexdigest()


def _without_input_name(config: bytes) -> bytes:
    """Return a Keras network's configuration in one form, whatever its input is called."""
    values = json.loads(with_input_name(config.decode("utf-8"), _INPUT))
    return json.dumps(values, sort_keys=True).encode()
