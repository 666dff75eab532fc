"""From photographs and videos to aligned faces: read, detect, choose, cut out."""

from __future__ import annotations

from tf_sphereface.alignment.align import TEMPLATES, align, read_landmarks
from tf_sphereface.alignment.detector import Detector, Face, FaceDetector, choose
from tf_sphereface.alignment.images import decode_image, read_image, write_face
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.alignment.outcomes import AlignResult, Outcome
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.alignment.photo_folder import align_by_landmarks, align_photos
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES
from tf_sphereface.alignment.yunet import YuNetDetector, make_detector

__all__ = [
    "IMAGE_SUFFIXES",
    "TEMPLATES",
    "AlignResult",
    "Detector",
    "Face",
    "FaceDetector",
    "Outcome",
    "PassedOver",
    "YuNetDetector",
    "align",
    "align_by_landmarks",
    "align_photos",
    "choose",
    "decode_image",
    "find_images",
    "make_detector",
    "read_image",
    "read_landmarks",
    "write_face",
]
