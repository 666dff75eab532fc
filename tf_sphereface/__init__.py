"""SphereFace for Keras: train, evaluate and export face embeddings with angular margins."""

from __future__ import annotations

import importlib
from typing import Any

from tf_sphereface import (
    _startup,  # noqa: F401 - before TensorFlow
    angular,
    backbones,
    caffe,
    callbacks,
    cards,
    classifier,
    data,
    embedder,
    layers,
    losses,
    metrics,
    optimizers,
    recipe_losses,
    recipes,
    schedules,
    training,
)
from tf_sphereface._version import __version__
from tf_sphereface.classifier import FaceClassifier
from tf_sphereface.embedder import load_embedder

__all__ = [
    "FaceClassifier",
    "__version__",
    "angular",
    "backbones",
    "caffe",
    "callbacks",
    "cards",
    "classifier",
    "data",
    "embedder",
    "layers",
    "load_embedder",
    "losses",
    "metrics",
    "optimizers",
    "recipe_losses",
    "recipes",
    "schedules",
    "training",
]

_LAZY = ("detect", "eval", "export")


def __getattr__(name: str) -> Any:
    """Import `tf_sphereface.detect`, `.eval` and `.export` on first use."""
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazy packages too."""
    return sorted([*globals(), *_LAZY])
