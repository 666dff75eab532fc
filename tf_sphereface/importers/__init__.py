"""Weights from elsewhere, read without the framework that wrote them."""

from __future__ import annotations

from tf_sphereface.importers.architecture_table import ARCHITECTURES, ONNX, Architecture
from tf_sphereface.importers.architectures import AUTO, Imported, import_checkpoint
from tf_sphereface.importers.caffemodel import CaffeLayer, read_caffemodel
from tf_sphereface.importers.mobilefacenet import load_mobilefacenet
from tf_sphereface.importers.onnx_graph import OnnxNetwork, load_onnx
from tf_sphereface.importers.sphereface import load_sphere20a, load_sphereface_caffe
from tf_sphereface.importers.state_dictionaries import Loaded, read_torch_checkpoint

__all__ = [
    "ARCHITECTURES",
    "AUTO",
    "ONNX",
    "Architecture",
    "CaffeLayer",
    "Imported",
    "Loaded",
    "OnnxNetwork",
    "import_checkpoint",
    "load_mobilefacenet",
    "load_onnx",
    "load_sphere20a",
    "load_sphereface_caffe",
    "read_caffemodel",
    "read_torch_checkpoint",
]
