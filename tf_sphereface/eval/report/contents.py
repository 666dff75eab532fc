"""Contents of a report as plain values: all that the page shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.angles import degrees, is_cosine
from tf_sphereface.eval.measures.curve import CONFIDENCE, clopper_pearson
from tf_sphereface.eval.protocol import ProtocolResult
from tf_sphereface.eval.report import tables
from tf_sphereface.eval.report.provenance import (
    FULL_SIZE,
    images_sha256,
    pairs_sha256,
    published_for,
)
from tf_sphereface.eval.verification import VerificationResult
from tf_sphereface.utils.optional import require

WORST = 20


def contents(
    result: ProtocolResult, root: Path | None = None, values: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a result as `--json` holds it and the page shows it; see `report_schema.json`.

    `root` is the folder of the images or videos, None where there is none to be hashed; `values` is
    what `report.to_dict` gave for the result, perhaps with more.
    """
    values = tables.to_dict(result) if values is None else dict(values)
    headline, pairs = result.headline, result.pairs
    names = {*pairs.left, *pairs.right}
    values["data"] = {
        **values["data"],
        "pairs_sha256": pairs_sha256(pairs),
        "images_sha256": None if root is None else images_sha256(root, names),
    }
    values["curve"] = {
        "confidence": CONFIDENCE,
        "points": curve_points(headline.scores, headline.is_same),
    }
    values["errors"] = None  # no decisions without folds
    if len(headline.fold_ids):
        values["errors"] = {
            "false_accepts": _worst(result, headline, same=False),
            "false_rejects": _worst(result, headline, same=True),
        }
    values["operating_point"] = tables.operating_point(result)
    values["published"] = {
        "pairs": FULL_SIZE.get(result.name),
        "figures": published_for(result.name),
    }
    return values


def curve_points(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return points of the ROC curve, dense where FAR or FRR is small, at most some 250."""
    roc_curve = require("sklearn.metrics", extra="eval").roc_curve
    fpr, tpr, cuts = roc_curve(same, scores, drop_intermediate=True)
    genuine = int(np.sum(same))
    impostors = len(same) - genuine
    chosen = {0, len(fpr) - 1}
    for far in np.geomspace(1 / impostors, 1, 120):
        chosen.add(int(np.searchsorted(fpr, far * (1 + 1e-9), side="right")) - 1)
    for frr in np.geomspace(1 / genuine, 1, 120):
        chosen.add(min(int(np.searchsorted(tpr, 1 - frr - 1e-9)), len(fpr) - 1))
    return [
        {
            "far": float(fpr[i]),
            "tar": float(tpr[i]),
            "tar_interval": list(clopper_pearson(round(tpr[i] * genuine), genuine)),
            "threshold": float(cuts[i]) if math.isfinite(cuts[i]) else None,
        }
        for i in sorted(chosen)
    ]


def _worst(result: ProtocolResult, headline: VerificationResult, same: bool) -> dict[str, Any]:
    """Return the wrongly decided pairs of one class, the most wrong first."""
    wrong = np.flatnonzero((headline.is_same == same) & ~headline.correct)
    if len(headline.scores) != len(result.pairs):
        return {"count": len(wrong), "worst": []}
    order = headline.scores[wrong] if same else -headline.scores[wrong]
    angles = degrees(headline.scores)
    threshold_of = dict(zip(headline.fold_ids.tolist(), headline.thresholds.tolist(), strict=True))
    cosine = is_cosine(headline.scores)
    worst = []
    for i in wrong[np.argsort(order, kind="stable")][:WORST].tolist():
        score = float(headline.scores[i])
        threshold = threshold_of[int(headline.folds[i])]
        worst.append(
            {
                "left": result.pairs.left[i],
                "right": result.pairs.right[i],
                "score": score,
                "angle_degrees": float(angles[i]) if cosine else None,
                "fold": int(headline.folds[i]),
                "threshold": threshold if math.isfinite(threshold) else None,
            }
        )
    return {"count": len(wrong), "worst": worst}
