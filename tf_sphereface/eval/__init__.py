"""Protocols that judge a face verifier: LFW, YouTube Faces, `.bin` sets, IJB, identification."""

from __future__ import annotations

from tf_sphereface.eval import (
    bins,
    calibration,
    folder,
    identification,
    ijb,
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
    "ijb",
    "lfw",
    "pairs",
    "report",
    "scores",
    "scoring",
    "verification",
    "ytf",
]
