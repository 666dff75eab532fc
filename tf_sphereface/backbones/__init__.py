"""Networks from an aligned face to an embedding: plain functional Keras models of stock layers."""

from __future__ import annotations

from tf_sphereface.backbones.common import count_macs, count_parameters
from tf_sphereface.backbones.iresnet import IResNet
from tf_sphereface.backbones.irse import IRSE
from tf_sphereface.backbones.known_weights import KnownWeights, known_weights
from tf_sphereface.backbones.mobilefacenet import MobileFaceNet
from tf_sphereface.backbones.presets import PRESETS, from_preset
from tf_sphereface.backbones.sfnet import SFNet
from tf_sphereface.backbones.sphereface import SphereFaceNet

__all__ = [
    "IRSE",
    "PRESETS",
    "IResNet",
    "KnownWeights",
    "MobileFaceNet",
    "SFNet",
    "SphereFaceNet",
    "count_macs",
    "count_parameters",
    "from_preset",
    "known_weights",
]
