"""Export embedders to TensorFlow Lite and ONNX; every file is run and compared before it counts.

Importing this package needs no extra; exporting needs `pip install "tf_sphereface[export]"`.
"""

from tf_sphereface.export.gate import Gate, GateFailed, GateResult
from tf_sphereface.export.job import LayerError
from tf_sphereface.export.onnx import export_onnx
from tf_sphereface.export.parity import ExportError, Parity, measure_parity
from tf_sphereface.export.parity_table import ParityRow, parity_table
from tf_sphereface.export.report import ExportReport
from tf_sphereface.export.tflite import export_tflite

__all__ = [
    "ExportError",
    "ExportReport",
    "Gate",
    "GateFailed",
    "GateResult",
    "LayerError",
    "Parity",
    "ParityRow",
    "export_onnx",
    "export_tflite",
    "measure_parity",
    "parity_table",
]
