"""Weights from elsewhere, read without the framework that wrote them."""

from __future__ import annotations

from tf_sphereface.importers.mobilefacenet import load_mobilefacenet
from tf_sphereface.importers.torch_pickle import read_torch_checkpoint

__all__ = ["load_mobilefacenet", "read_torch_checkpoint"]
