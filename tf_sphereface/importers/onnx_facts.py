"""How an imported ONNX network is fed: from its file, from who imports it, or a guess."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.embedder import EmbedderMetadata, graph_normalization, read_metadata
from tf_sphereface.embedder.input_facts import NUMBERS, PIXELS, guess, say_guesses, with_given
from tf_sphereface.embedder.model_card import LICENSE, ORIGINS
from tf_sphereface.importers.onnx_graph import OnnxNetwork, pixel_facts
from tf_sphereface.importers.onnx_network import OF_PIXELS
from tf_sphereface.utils.checks import error

_KEPT = ("template", "training_data", "loss", "margin", "flip", "threshold", "threshold_far")
_KEPT_EXTRA = (LICENSE, *ORIGINS, "recipe", "calibration")


@dataclasses.dataclass(frozen=True)
class OnnxFacts:
    """How a file is fed, and how the model is that was made of it.

    Attributes:
        source: `pixel_mean` and `pixel_scale` of the file; empty where it takes pixels.
        model: fields of `EmbedderMetadata` for the model.
    """

    source: dict[str, Any]
    model: dict[str, Any]


def onnx_facts(path: Path, network: OnnxNetwork, given: dict[str, Any]) -> OnnxFacts:
    """Return the facts of an ONNX file and its model; a guess is said aloud.

    The file is fed as `given` says, else as its metadata say. Where its graph begins with a
    normalisation and nothing else is said, it takes pixels of 0 to 255, or of 0 to 1 if the
    numbers in it are as small; the model is fed as both together.

    Args:
        path: the file.
        network: what was read of it.
        given: `channel_order`, `pixel_mean` and `pixel_scale`, as far as they are known.

    Raises:
        ValueError: a mean or a scale is given for a file that takes uint8.
    """
    stored = read_metadata(path)
    metadata = with_given(stored or guess(), given, str(path))
    mean, scale = metadata.pixel_mean, metadata.pixel_scale
    start, assumed = network.normalization, list(metadata.assumed)
    if network.takes_pixels:
        if any(given.get(name, free) != free for name, free in zip(NUMBERS, (0, 1), strict=True)):
            told = {name: given[name] for name in NUMBERS if name in given}
            raise error(next(iter(told)), f"be left out, for {path} takes pixels of uint8", told)
        mean, scale = 0.0, 1.0
        assumed = [name for name in assumed if name not in NUMBERS]
    elif start.operators and stored is None:
        of_pixels = np.abs(start.mean).max() > OF_PIXELS or start.scale.max() > OF_PIXELS
        whole = 1.0 if of_pixels or set(NUMBERS) & given.keys() else 255.0
        mean, scale = given.get("pixel_mean", 0.0), given.get("pixel_scale", whole)
        if whole == 1.0:
            assumed = [name for name in assumed if name not in NUMBERS]
    source = {} if network.takes_pixels else {"pixel_mean": mean, "pixel_scale": scale}
    mean, scale = pixel_facts(start, mean, scale)
    model: dict[str, Any] = {name: getattr(metadata, name) for name in _KEPT}
    model |= {
        "channel_order": metadata.channel_order,
        "pixel_mean": mean,
        "pixel_scale": scale,
        "assumed": [name for name in assumed if name in (*PIXELS, "template")],
        "architecture": metadata.architecture or f"{network.model.name} (ONNX)",
        "normalized": network.normalized,
        "extra": {key: value for key, value in metadata.extra.items() if key in _KEPT_EXTRA},
    }
    say_guesses(
        EmbedderMetadata(**model),
        str(path),
        lambda: None if start.operators else graph_normalization.own_normalization(path),
        stored=stored is not None,
    )
    return OnnxFacts(source, model)
