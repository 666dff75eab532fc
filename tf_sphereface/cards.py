"""A model card beside a model file: what it is, what was measured, what it is for and what not.

Everything in a card comes from the metadata inside the file, so a card can always be made again:
`write_card("embedder.keras")`. What a program knows beyond the metadata's own fields it keeps in
`extra`, under the keys below.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras

from tf_sphereface._artifact import EmbedderMetadata, artifact_format, read_metadata
from tf_sphereface._card_text import INTENDED_USE, limits_of, to_markdown
from tf_sphereface._files import atomic_path, sha256_file, write_json
from tf_sphereface.backbones.common import count_macs, count_parameters

FORMAT, VERSION = "tf_sphereface-card", 1
UNKNOWN = "unknown"

# Keys of `EmbedderMetadata.extra`.
LICENCE, SOURCE, NOTES, LEFT_OUT = "licence", "source", "notes", "left_out"
NETWORK, MEASURED = "network", "measured"
EARLIER_SOURCE = "earlier_source"  # what the source was made from: {"file", "sha256"}


def card_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return where the card of a model lies, as Markdown and as JSON.

    Example:

    >>> [path.name for path in card_paths("runs/first/embedder.keras")]
    ['embedder.keras.card.md', 'embedder.keras.card.json']
    """
    path = Path(path)
    return path.with_name(f"{path.name}.card.md"), path.with_name(f"{path.name}.card.json")


def write_card(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write the card of a model beside it, as Markdown and as JSON; older ones are replaced.

    Args:
        path: a `.keras`, `.tflite` or `.onnx` file. Where it carries no metadata, the card says
            that nothing is known.

    Returns:
        The two files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of the format that its suffix promises.
        OSError: the card could not be written.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> sf.embedder.save_embedder(network, "network.keras")
    >>> print(write_card("network.keras")[0].read_text(encoding="utf-8").splitlines()[0])
    # Model card: network.keras
    """
    path = Path(path)
    card = card_of(path)
    markdown, data = card_paths(path)
    with atomic_path(markdown) as temporary:
        temporary.write_text(to_markdown(card), encoding="utf-8")
    write_json(data, card)
    return markdown, data


def card_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card of a model as JSON values.

    Args:
        path: as for `write_card`.

    Returns:
        `format`, `version`, and the sections `file`, `architecture`, `input`, `output`, `training`,
        `measured`, `intended_use`, `limits`, `licence`, `source`, `notes`, `versions`. What is not
        known is None, the licence of the weights `"unknown"`.

    Raises:
        FileNotFoundError, ValueError: as `write_card`.
    """
    path = Path(path)
    suffix = artifact_format(path)
    metadata = read_metadata(path) or EmbedderMetadata(template=None)
    extra = metadata.extra
    network = extra.get(NETWORK) or {}
    height, width = metadata.input_size
    return {
        "format": FORMAT,
        "version": VERSION,
        "file": {
            "name": path.name,
            "format": suffix[1:],
            "quantize": (extra.get("export") or {}).get("quantize"),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        },
        "architecture": {
            "name": metadata.architecture,
            "parameters": network.get("parameters"),
            "macs": network.get("macs"),
        },
        "input": {
            "height": height,
            "width": width,
            "channel_order": metadata.channel_order,
            "pixel_mean": metadata.pixel_mean,
            "pixel_scale": metadata.pixel_scale,
            "template": metadata.template,
            "dtype": metadata.input_dtype,
            "built_in": (extra.get("export") or {}).get("built_in"),
            "layout": metadata.layout,
            "batch": metadata.batch,
        },
        "output": {
            "embedding_dim": metadata.embedding_dim,
            "normalized": metadata.normalized,
            "flip": metadata.flip,
            "flip_built_in": metadata.flip_built_in,
        },
        "training": {
            "data": metadata.training_data,
            "loss": metadata.loss,
            "margin": metadata.margin,
            "recipe": extra.get("recipe"),
        },
        "measured": _measured(metadata),
        "intended_use": list(INTENDED_USE),
        "limits": limits_of(metadata),
        "licence": str(extra.get(LICENCE) or UNKNOWN),
        "source": {
            "file": extra.get(SOURCE),
            "sha256": metadata.source_hash,
            "earlier": extra.get(EARLIER_SOURCE),
            "left_out": list(extra.get(LEFT_OUT) or ()),
        },
        "notes": list(extra.get(NOTES) or ()),
        "versions": metadata.versions,
    }


def network_facts(model: keras.Model) -> dict[str, int]:
    """Return what a card says of a network's size, for `extra["network"]`.

    Example:

    >>> from tf_sphereface.backbones import MobileFaceNet
    >>> network_facts(MobileFaceNet())["parameters"]
    999552
    """
    return {"parameters": count_parameters(model), "macs": count_macs(model)}


def with_measured(metadata: EmbedderMetadata, figures: dict[str, Any]) -> EmbedderMetadata:
    """Return the metadata with figures that were measured on the network.

    Args:
        metadata: what is known.
        figures: name -> value; added to those that are there.

    Example:

    >>> with_measured(EmbedderMetadata(), {"LFW accuracy": 0.99}).extra
    {'measured': {'LFW accuracy': 0.99}}
    """
    known = {**(metadata.extra.get(MEASURED) or {}), **figures}
    return dataclasses.replace(metadata, extra={**metadata.extra, MEASURED: known})


_NO_FIGURES = ("format", "quantize", "built_in")


def _measured(metadata: EmbedderMetadata) -> dict[str, Any]:
    """Return every figure that is in the metadata."""
    figures = dict(metadata.extra.get(MEASURED) or {})
    if figures and metadata.extra.get("export"):
        figures = {"before the export": figures}
    if metadata.threshold is not None:
        figures["threshold"] = metadata.threshold
        figures["threshold_far"] = metadata.threshold_far
    for key in ("calibration", "export"):
        values = metadata.extra.get(key)
        if values:
            figures[key] = {k: v for k, v in values.items() if k not in _NO_FIGURES}
    return {name: value for name, value in figures.items() if value not in (None, {})}
