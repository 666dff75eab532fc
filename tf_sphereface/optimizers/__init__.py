"""Optimizers with rates and weight decay parameter by parameter, and a learning rate for a run."""

from __future__ import annotations

from tf_sphereface.optimizers.decoupled import FaceAdamW, FaceMuon, treatment
from tf_sphereface.optimizers.multipliers import (
    DECOUPLED_MULTIPLIERS,
    PAPER_MULTIPLIERS,
    Multiplier,
    check_multipliers,
    match_multipliers,
)
from tf_sphereface.optimizers.sphereface_sgd import (
    PAPER_BOUNDARIES,
    PAPER_TOTAL,
    SphereFaceSGD,
    paper_optimizer,
)
from tf_sphereface.optimizers.warm_up_decay import Decay, WarmUpDecay

__all__ = [
    "DECOUPLED_MULTIPLIERS",
    "PAPER_BOUNDARIES",
    "PAPER_MULTIPLIERS",
    "PAPER_TOTAL",
    "Decay",
    "FaceAdamW",
    "FaceMuon",
    "Multiplier",
    "SphereFaceSGD",
    "WarmUpDecay",
    "check_multipliers",
    "match_multipliers",
    "paper_optimizer",
    "treatment",
]
