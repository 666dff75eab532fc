"""Find faces and their five points in photographs (the extra `align`)."""

from __future__ import annotations

from tf_sphereface.detect.detector import Face, FaceDetector, choose

__all__ = ["Face", "FaceDetector", "choose"]
