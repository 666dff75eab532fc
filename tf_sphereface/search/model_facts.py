"""What a gallery knows of the model that its embeddings are from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.embedder.model_hashes import model_sha256, network_sha256

_SAID = ("template", "flip", "channel_order", "pixel_mean", "pixel_scale", "architecture")


def facts_of(embedder: Embedder, detector: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return the facts of a model, and of the detector of its faces, plain JSON values.

    `thresholds` has its false accept rates, as text, and for each the upper end of the threshold's
    interval, or the threshold where no interval is known.
    """
    metadata = embedder.metadata
    calibration = metadata.extra.get("calibration")
    stated: dict[str, float] = {}
    if metadata.threshold is not None and metadata.threshold_far is not None:
        stated[f"{metadata.threshold_far:g}"] = metadata.threshold
    if isinstance(calibration, dict) and calibration.get("threshold") == metadata.threshold:
        lower = calibration.get("lower_rates") or {}
        stated |= {f"{calibration['far']:g}": calibration["threshold_interval"][1]}
        stated |= {rate: high for rate, (_, _, high) in lower.items()}
    return {
        "path": None if embedder.path is None else str(embedder.path.absolute()),
        "sha256": _hash_of(embedder),
        "network_sha256": _network_hash_of(embedder),
        "format": embedder.format,
        "input_size": list(embedder.input_size),
        "given": {k: list(v) if isinstance(v, tuple) else v for k, v in embedder.given.items()},
        **{name: _plain(getattr(metadata, name)) for name in _SAID},
        "thresholds": stated,
    }


def check_model(facts: dict[str, Any], embedder: Embedder) -> None:
    """Raise ValueError where a gallery was made with another model, or fed otherwise."""
    known = facts["model"]
    if known is None:
        return
    if known["sha256"] != _hash_of(embedder):
        other = facts_of(embedder)
        network = known.get("network_sha256")  # which galleries of former versions lack
        old = network and _network_hash_of(embedder, as_named=True)
        if network is None or network not in (other["network_sha256"], old):
            raise ValueError(
                f"the gallery was made with another model: {_title(known)}. "
                f"Received: {_title(other)}. Its vectors cannot be compared; enroll the people "
                "again with this one"
            )
    other = {name: _plain(getattr(embedder.metadata, name)) for name in _SAID}
    for name in ("flip", "channel_order", "pixel_mean", "pixel_scale"):
        if known[name] != other[name]:
            raise ValueError(
                f"the gallery was made with {name} {known[name]!r}, and the model is opened with "
                f"{other[name]!r}: its vectors cannot be compared"
            )


def stored_model(facts: dict[str, Any], path: str | os.PathLike[str] | None = None) -> Embedder:
    """Open the model that a gallery was made with, from `path` where it has moved; checked.

    Raises:
        ValueError: it is another, or there was none.
        FileNotFoundError: it is not there.
    """
    known = facts["model"]
    if known is None or (known["path"] is None and path is None):
        raise ValueError("the gallery was made without a model's file: embed the faces yourself")
    place = Path(known["path"] if path is None else path)
    if not place.is_file():
        raise FileNotFoundError(
            f"the gallery's model {_title(known)} is not there any more: say with --model where it "
            "is"
        )
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in known["given"].items()
    }
    embedder = load_embedder(place, **given)
    check_model(facts, embedder)
    return embedder


def _hash_of(embedder: Embedder) -> str | None:
    """Return the SHA-256 of a model's file, or of a Keras model's weights in memory."""
    if embedder.path is not None:
        return model_sha256(embedder.path)
    if embedder.backbone is None:
        return None
    digest = hashlib.sha256()
    for weight in embedder.backbone.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _network_hash_of(embedder: Embedder, *, as_named: bool = False) -> str | None:
    """Return the SHA-256 of a model's file without its metadata; None where it has no such file.

    `as_named`: as version 0.1.0 had it.
    """
    try:
        path = embedder.path
        return None if path is None else network_sha256(path, as_named=as_named)
    except ValueError:  # an ONNX model of several files
        return None


def _title(facts: dict[str, Any]) -> str:
    digest = facts["sha256"]
    return f"{facts['path'] or 'one in memory'} (sha256 {digest[:12] if digest else 'unknown'})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
