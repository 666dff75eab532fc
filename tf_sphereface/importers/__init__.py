"""Weights from elsewhere, read without the framework that wrote them."""

from __future__ import annotations

from tf_sphereface.importers.architectures import (
    ARCHITECTURES,
    Architecture,
    Imported,
    import_checkpoint,
)
from tf_sphereface.importers.caffemodel import CaffeLayer, read_caffemodel
from tf_sphereface.importers.mobilefacenet import load_mobilefacenet
from tf_sphereface.importers.sphereface import Loaded, load_sphere20a, load_sphereface_caffe
from tf_sphereface.importers.torch_pickle import read_torch_checkpoint

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CaffeLayer",
    "Imported",
    "Loaded",
    "import_checkpoint",
    "load_mobilefacenet",
    "load_sphere20a",
    "load_sphereface_caffe",
    "read_caffemodel",
    "read_torch_checkpoint",
]
