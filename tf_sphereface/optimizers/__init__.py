"""Optimizers with rates and weight decay parameter by parameter."""

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

__all__ = [
    "DECOUPLED_MULTIPLIERS",
    "PAPER_BOUNDARIES",
    "PAPER_MULTIPLIERS",
    "PAPER_TOTAL",
    "FaceAdamW",
    "FaceMuon",
    "Multiplier",
    "SphereFaceSGD",
    "check_multipliers",
    "match_multipliers",
    "paper_optimizer",
    "treatment",
]
