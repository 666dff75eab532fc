"""Export embedders to TensorFlow Lite and ONNX; every file is run and compared before it counts.

Importing this package needs no extra; exporting needs `pip install "tf_sphereface[export]"`.
"""

from tf_sphereface.export.gate import Gate, GateResult
from tf_sphereface.export.onnx import export_onnx
from tf_sphereface.export.parity import Parity, compare
from tf_sphereface.export.parity_table import ParityRow, parity_table
from tf_sphereface.export.report import ExportError, ExportReport
from tf_sphereface.export.tflite import export_tflite

__all__ = [
    "ExportError",
    "ExportReport",
    "Gate",
    "GateResult",
    "Parity",
    "ParityRow",
    "compare",
    "export_onnx",
    "export_tflite",
    "parity_table",
]
