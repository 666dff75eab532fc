"""SphereFace for Keras: train, evaluate and export face embeddings with angular margins."""

from __future__ import annotations

import importlib
from typing import Any

from tf_sphereface.utils import startup  # noqa: F401 - before TensorFlow

# isort: split
from tf_sphereface import (
    alignment,
    angular,
    backbones,
    callbacks,
    classifier,
    data,
    embedder,
    importers,
    layers,
    losses,
    metrics,
    optimizers,
    schedules,
    training,
)
from tf_sphereface._version import __version__
from tf_sphereface.classifier import FaceClassifier
from tf_sphereface.embedder import load_embedder

__all__ = [
    "FaceClassifier",
    "__version__",
    "alignment",
    "angular",
    "backbones",
    "callbacks",
    "classifier",
    "data",
    "embedder",
    "importers",
    "layers",
    "load_embedder",
    "losses",
    "metrics",
    "optimizers",
    "schedules",
    "training",
]

_LAZY = ("eval", "export", "search")


def __getattr__(name: str) -> Any:
    """Import `tf_sphereface.eval`, `.export` and `.search` on first use."""
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazy packages too."""
    return sorted([*globals(), *_LAZY])
