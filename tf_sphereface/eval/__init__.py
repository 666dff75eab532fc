"""Protocols that judge a face verifier: LFW, YouTube Faces, `.bin` sets, IJB, identification."""

from __future__ import annotations

from tf_sphereface.eval import (
    bin_sets,
    bins,
    calibration,
    feeding_mistakes,
    folder,
    groups,
    identification,
    ijb,
    lfw,
    pairs,
    published_check,
    quality,
    report,
    scores,
    scoring,
    verification,
    ytf,
)
from tf_sphereface.eval.protocol import ProtocolResult

__all__ = [
    "ProtocolResult",
    "bin_sets",
    "bins",
    "calibration",
    "feeding_mistakes",
    "folder",
    "groups",
    "identification",
    "ijb",
    "lfw",
    "pairs",
    "published_check",
    "quality",
    "report",
    "scores",
    "scoring",
    "verification",
    "ytf",
]
