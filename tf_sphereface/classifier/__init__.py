"""The model that trains an embedder: a backbone, an angular head and its loss."""

from __future__ import annotations

from tf_sphereface.classifier.face_classifier import FaceClassifier

__all__ = ["FaceClassifier"]
