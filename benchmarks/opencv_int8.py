"""An int8 ONNX file in ONNX Runtime and in OpenCV's engines: mean cosine with the Keras model.

    python benchmarks/opencv_int8.py model.keras model.int8.onnx faces/

The file is one of `--layout nchw`. The faces are aligned; 64 of them are taken.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

import tf_sphereface as sf
from tf_sphereface.embedder.runtimes import to_network
from tf_sphereface.export.calibration_faces import calibration_faces


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean over rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def main() -> None:
    """Print a line for each runtime."""
    keras_file, onnx_file, folder = sys.argv[1:]
    model, embedder = sf.load_embedder(keras_file), sf.load_embedder(onnx_file)
    faces = calibration_faces(folder, model.input_size, limit=64)
    expected = model(faces)
    print(f"ONNX Runtime: {mean_cosine(embedder(faces), expected):.4f}")
    inputs = to_network(faces, embedder.metadata).transpose(0, 3, 1, 2)
    for engine in ("ENGINE_CLASSIC", "ENGINE_NEW", "ENGINE_AUTO"):
        network = cv2.dnn.readNetFromONNX(onnx_file, getattr(cv2.dnn, engine))
        found = []
        for image in inputs:
            network.setInput(np.ascontiguousarray(image[np.newaxis]))
            found.append(network.forward().reshape(-1).copy())
        cosine = mean_cosine(np.array(found), expected)
        print(f"OpenCV {cv2.__version__}, {engine}: {cosine:.4f}")


if __name__ == "__main__":
    main()
