"""Pictures of verification results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface._extras import require
from tf_sphereface._files import atomic_path

GENUINE, IMPOSTOR = "#1b7f79", "#c8553d"  # told apart by lightness too


def angle_panels(
    results: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]],
    path: str | os.PathLike[str],
) -> None:
    """Draw the angles of genuine and impostor pairs as histograms, one panel a result.

    Args:
        results: name -> (cosine scores, is_same), each `(pairs,)`.
        path: the picture; its suffix is the format (`.png`, `.svg`). Written atomically.

    Raises:
        ValueError: there is no result.
        ImportError: matplotlib is missing; the message names the extra.

    Example:

    >>> import tempfile
    >>> scores, same = np.array([0.9, 0.1]), np.array([True, False])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     angle_panels({"a network": (scores, same)}, f"{folder}/angles.png")
    """
    if not results:
        raise ValueError("results must hold at least one network. Received: none")
    figure = require("matplotlib.figure", extra="eval").Figure(
        figsize=(3.4 * len(results), 3.0), layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(results), sharex=True, sharey=True, squeeze=False)[0]
    bins = np.arange(0.0, 181.0, 3.0)
    widest = max(
        float(np.degrees(np.arccos(np.clip(s.min(), -1.0, 1.0)))) for s, _ in results.values()
    )
    panels[0].set(xlim=(0.0, min(180.0, 10.0 * np.ceil(widest / 10.0))))
    for panel, (name, (scores, same)) in zip(panels, results.items(), strict=True):
        angles = np.degrees(np.arccos(np.clip(scores, -1.0, 1.0)))
        angle_histogram(panel, bins, angles[same], "genuine")
        angle_histogram(panel, bins, angles[~same], "impostor")
        gap = angles[~same].mean() - angles[same].mean()
        panel.set_title(f"{name}\ngap {gap:.1f}°", fontsize=10)
        panel.set_xlabel("angle between embeddings, degrees", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of pairs", fontsize=9)
    panels[0].legend(frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)


def angle_histogram(panel: Any, bins: NDArray[np.float64], angles: Any, kind: str) -> None:
    """Draw one histogram and its mean.

    Args:
        panel: matplotlib's axes.
        bins: edges, in degrees.
        angles: (n,), in degrees.
        kind: `"genuine"` or `"impostor"`; its colour, and its name in the legend.
    """
    colour = {"genuine": GENUINE, "impostor": IMPOSTOR}[kind]
    weights = np.full(len(angles), 1.0 / max(len(angles), 1))
    panel.hist(
        angles, bins, weights=weights, color=colour, alpha=0.65, label=kind, histtype="stepfilled"
    )
    if len(angles):
        panel.axvline(float(angles.mean()), color=colour, linewidth=1.2, linestyle="--")
