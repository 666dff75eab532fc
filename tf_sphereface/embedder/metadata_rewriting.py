"""Replacement of the metadata inside a saved model, which leaves the network as it is."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.embedder.embedder import add_keras_metadata, load_embedder
from tf_sphereface.embedder.input_facts import FACTS, PIXELS
from tf_sphereface.embedder.metadata import (
    EmbedderMetadata,
    add_onnx_metadata,
    add_tflite_metadata,
    artifact_format,
    read_metadata,
    sidecar_path,
)
from tf_sphereface.embedder.model_card import card_path, write_card
from tf_sphereface.embedder.model_hashes import external_data_files
from tf_sphereface.utils.files import atomic_path, sha256_file, write_json
from tf_sphereface.utils.messages import SphereFaceWarning


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
            add_keras_metadata(path, temporary, metadata)
        else:
            add = add_tflite_metadata if suffix == ".tflite" else add_onnx_metadata
            temporary.write_bytes(add(path.read_bytes(), metadata.to_json()))
        shutil.copymode(path, temporary)
        if read_metadata(temporary) != metadata.as_read():
            raise OSError(f"{path} was left as it was: a copy did not keep the new metadata")
        _require_same_network(path, temporary, metadata)
        if expected_sha256 is not None and sha256_file(path) != expected_sha256:
            raise ValueError(f"{path} has changed meanwhile; it is left as it is now")
    beside = sidecar_path(path)
    if beside.is_file():
        write_json(beside, dataclasses.asdict(metadata))
    if card_path(path).is_file():
        write_card(path)


def describe_file(path: str | os.PathLike[str], **facts: Any) -> EmbedderMetadata:
    """Write how a model is fed into its file, once and for all, and return the new metadata.

    Args:
        path: a `.keras`, `.tflite` or `.onnx` file, of ours or not.
        **facts: `channel_order`, `pixel_mean`, `pixel_scale`, `layout`, as for `load_embedder`; one
            at least. What is not given stays as the file says, or a guess that is marked as one.

    Raises:
        ValueError: no fact is given, or what `load_embedder` and `replace_metadata` refuse.

    Example:

    >>> import keras
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> network.save("foreign.keras")
    >>> describe_file("foreign.keras", channel_order="bgr", pixel_mean=0, pixel_scale=255).assumed
    ['template']
    """
    if all(value is None for value in facts.values()):
        raise ValueError(
            "Arguments channel_order, pixel_mean, pixel_scale, layout: one must be given. "
            "Received: none"
        )
    require_one_file(path)
    metadata = load_embedder(path, **facts).metadata
    replace_metadata(path, metadata)
    return metadata


def require_one_file(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for an ONNX file whose weights are in another: its metadata stay."""
    others = external_data_files(path) if Path(path).is_file() else []
    if others:
        raise ValueError(
            f"nothing can be written into {path}, whose weights are in another file, "
            f"{others[0].name}: save the model in one file (onnx.save)"
        )


def _require_same_network(old: Path, new: Path, metadata: EmbedderMetadata) -> None:
    names = PIXELS if old.suffix.lower() == ".keras" else FACTS
    facts = {name: getattr(metadata, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SphereFaceWarning)  # the old file's facts may be others
        before, after = load_embedder(old, **facts), load_embedder(new, **facts)
    shape = (2, *before.input_size, 3)
    probe = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = before(probe)
    # Equal on a CPU; a GPU may pick other kernels.
    if not np.allclose(after(probe), expected, rtol=0, atol=1e-4 * np.abs(expected).max()):
        raise OSError(f"{old} was left as it was: a copy with other metadata embeds differently")
