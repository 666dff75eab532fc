"""Replacement of the metadata inside a saved model, which leaves the network as it is."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from tf_sphereface.embedder.embedder import load_embedder
from tf_sphereface.embedder.metadata import (
    KERAS_MEMBER,
    EmbedderMetadata,
    add_onnx_metadata,
    add_tflite_metadata,
    artifact_format,
    read_metadata,
    sidecar_path,
)
from tf_sphereface.embedder.model_card import card_path, write_card
from tf_sphereface.utils.files import atomic_path, sha256_file, write_json


def replace_metadata(
    path: str | os.PathLike[str], metadata: EmbedderMetadata, expected_sha256: str | None = None
) -> None:
    """Replace the metadata inside a `.keras`, `.tflite` or `.onnx` file (a link is followed).

    A new file is written beside the old one, opened, and compared: it must carry the metadata and
    embed two probe images as the old one does. Only then it takes the old one's name, so the model
    is whole at every moment. The JSON file and the card beside it are renewed too, if they are
    there. A file that has another hash than `expected_sha256` is left alone (ValueError).
    """
    path = Path(path).resolve()
    suffix = artifact_format(path)
    with atomic_path(path) as temporary:
        if suffix == ".keras":
            _copy_keras(path, temporary, metadata.to_json())
        else:
            add = add_tflite_metadata if suffix == ".tflite" else add_onnx_metadata
            temporary.write_bytes(add(path.read_bytes(), metadata.to_json()))
        shutil.copymode(path, temporary)
        if read_metadata(temporary) != metadata:
            raise OSError(f"{path} was left as it was: a copy did not keep the new metadata")
        _require_same_network(path, temporary)
        if expected_sha256 is not None and sha256_file(path) != expected_sha256:
            raise ValueError(f"{path} has changed meanwhile; it is left as it is now")
    beside = sidecar_path(path)
    if beside.is_file():
        write_json(beside, dataclasses.asdict(metadata))
    if card_path(path).is_file():
        write_card(path)


def _copy_keras(source: Path, target: Path, text: str) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            if entry.filename == KERAS_MEMBER:
                continue
            with old.open(entry) as reader, new.open(entry, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)  # its checksum is verified on the way
        new.writestr(KERAS_MEMBER, text)


def _require_same_network(old: Path, new: Path) -> None:
    before, after = load_embedder(old), load_embedder(new)
    shape = (2, *before.input_size, 3)
    probe = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = before(probe)
    # Equal on a CPU; a GPU may pick other kernels.
    if not np.allclose(after(probe), expected, rtol=0, atol=1e-4 * np.abs(expected).max()):
        raise OSError(f"{old} was left as it was: a copy with other metadata embeds differently")
