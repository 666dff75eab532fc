"""Protocols that judge a face verifier: LFW, YouTube Faces, `.bin` sets, identification."""

from __future__ import annotations

from tf_sphereface.eval import (
    bins,
    calibration,
    folder,
    identification,
    lfw,
    pairs,
    report,
    scores,
    scoring,
    verification,
    ytf,
)

__all__ = [
    "bins",
    "calibration",
    "folder",
    "identification",
    "lfw",
    "pairs",
    "report",
    "scores",
    "scoring",
    "verification",
    "ytf",
]
