"""Losses on the output of `layers.AngularDense`: thin classes over pure functions.

| loss | what it does to the target's angle |
|---|---|
| `ASoftmaxLoss` | multiplies it, blended with the plain cosine; the length of x is the scale |
| `NormFaceLoss` | nothing; cosines times a scale |
| `CosFaceLoss` | takes a margin off the cosine |
| `ArcFaceLoss` | adds a margin to the angle |
| `AdaFaceLoss` | adds a margin that follows the embedding's length, the image's quality |
| `MagFaceLoss` | adds a margin that grows with the length, and rewards length |
| `CurricularFaceLoss` | adds a margin, and weighs hard negatives more as training goes on |
| `SphereFaceRLoss` | multiplies it (or divides the others') by a real number |
| `SphereFace2Loss` | binary decisions, one for each class, with a shared bias |

`docs/start/choose-a-loss.md` compares them.
"""

from tf_sphereface.losses.a_softmax import ASoftmaxLoss, a_softmax
from tf_sphereface.losses.ada_face import AdaFaceLoss, adaface
from tf_sphereface.losses.cosine_softmax import (
    ArcFaceLoss,
    CosFaceLoss,
    NormFaceLoss,
    arcface,
    cosface,
    normface,
)
from tf_sphereface.losses.curricular_face import CurricularFaceLoss, curricularface
from tf_sphereface.losses.mag_face import MagFaceLoss, magface
from tf_sphereface.losses.margin_loss import MarginLoss
from tf_sphereface.losses.sphereface2 import SphereFace2Loss, sphereface2, sphereface2_bias
from tf_sphereface.losses.sphereface_r import SphereFaceRLoss, sphereface_r
from tf_sphereface.losses.update_count import bind_step

__all__ = [
    "ASoftmaxLoss",
    "AdaFaceLoss",
    "ArcFaceLoss",
    "CosFaceLoss",
    "CurricularFaceLoss",
    "MagFaceLoss",
    "MarginLoss",
    "NormFaceLoss",
    "SphereFace2Loss",
    "SphereFaceRLoss",
    "a_softmax",
    "adaface",
    "arcface",
    "bind_step",
    "cosface",
    "curricularface",
    "magface",
    "normface",
    "sphereface2",
    "sphereface2_bias",
    "sphereface_r",
]
