"""OpenCV's detector YuNet, whose file the user brings, and the choice between detectors."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.detector import SMALLEST, Detector, FaceDetector, Found
from tf_sphereface.utils.files import sha256_file

_OVERLAP = 0.3  # that two boxes may share, OpenCV's default
_MOST = 5000  # candidates


class YuNetDetector(Detector):
    """Finds faces and their five points by YuNet through OpenCV; see `Detector`.

    Args:
        path: the ONNX file, such as `face_detection_yunet_2023mar.onnx`.
        min_face: as of `Detector`; smaller ones are left out after the search.
        min_score: as of `Detector`.
        max_side: as of `Detector`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenCV cannot read the file as YuNet, or an argument is out of range.

    Example:

    ```python
    detector = YuNetDetector("face_detection_yunet_2023mar.onnx", min_face=40)
    faces = detector(image)
    ```

    Source: Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence
    Research 2023; the outputs are read by `cv2.FaceDetectorYN`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        min_face: float = SMALLEST,
        min_score: float = 0.8,
        max_side: int = 1600,
    ) -> None:
        super().__init__(min_face, min_score, max_side)
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"detector must be an existing file. Received: {path}")
        self._digest = sha256_file(self.path)
        self._local = threading.local()  # OpenCV's object holds the size of its image
        self.detect(np.zeros((64, 64, 3), np.uint8), SMALLEST)  # a wrong file is said now

    def get_config(self) -> dict[str, Any]:
        """Return what a result depends on beside the image."""
        return {"yunet": self._digest, **super().get_config()}

    def detect(self, image: NDArray[np.uint8], min_face: float) -> Found:
        """Run the network; the points come in our order, left and right as seen in the image."""
        height, width = image.shape[:2]
        try:
            if not hasattr(self._local, "network"):
                self._local.network = cv2.FaceDetectorYN.create(
                    str(self.path), "", (width, height), self.min_score, _OVERLAP, _MOST
                )
            network = self._local.network
            network.setInputSize((width, height))
            found = network.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        except cv2.error as error:
            raise ValueError(
                f"{self.path}: not a file of YuNet that this OpenCV ({cv2.__version__}) runs: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        faces = np.zeros((0, 15)) if found is None else np.asarray(found, np.float64)
        faces = faces[np.isfinite(faces).all(axis=1)]
        corners, sides = faces[:, :2], faces[:, 2:4]
        large = sides.max(axis=1, initial=0.0) >= min_face
        order = np.flatnonzero(large)[np.argsort(-faces[large, 14], kind="stable")]
        boxes = np.concatenate([corners, corners + sides], axis=1)
        return boxes[order], faces[order, 14], faces[order, 4:14].reshape(-1, 5, 2)


def make_detector(
    path: str | os.PathLike[str] | None = None, *, min_face: float = SMALLEST, max_side: int = 1600
) -> Detector:
    """Return YuNet where its file is given, else MTCNN.

    Args:
        path: an ONNX file of YuNet; None takes MTCNN, from the package mtcnn.
        min_face: the smallest face that is looked for, in pixels, at least 20.
        max_side: images are averaged down to this many pixels, as of `Detector`.

    Raises:
        FileNotFoundError, ValueError: as of `YuNetDetector`.
        ImportError: mtcnn is needed and not installed (the extra `align`).

    Example:

    >>> detector = make_detector(min_face=40)
    >>> type(detector).__name__, detector.get_config()["min_face"]
    ('FaceDetector', 40.0)
    """
    if path is None:
        return FaceDetector(min_face=min_face, max_side=max_side)
    return YuNetDetector(path, min_face=min_face, max_side=max_side)
