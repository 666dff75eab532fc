"""Protocols that judge a face verifier: LFW, YouTube Faces, `.bin` sets, identification."""

from __future__ import annotations

from tf_sphereface.eval import (
    angles,
    bins,
    calibrate,
    contents,
    embeddings,
    folder,
    identification,
    lfw,
    page,
    pairs,
    precomputed,
    report,
    scores,
    verification,
    ytf,
)

__all__ = [
    "angles",
    "bins",
    "calibrate",
    "contents",
    "embeddings",
    "folder",
    "identification",
    "lfw",
    "page",
    "pairs",
    "precomputed",
    "report",
    "scores",
    "verification",
    "ytf",
]
