"""Hints at figures that are hardly what was meant: distances as scores, embeddings all alike."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.angles import degrees, is_cosine
from tf_sphereface.utils.messages import SphereFaceWarning

ALIKE = 3.0  # degrees; impostors of a network that tells faces apart are tens of degrees apart
_DEVIATIONS = 2.33  # by which an AUC must be below one half: one case of a hundred by chance

REVERSED = (
    "the genuine pairs have lower scores than the impostor pairs (AUC below one half). Scores must "
    "be the higher the more alike two faces are: are these distances? Then turn their sign"
)
COLLAPSED = (
    f"the embeddings nearly coincide: genuine and impostor pairs both are less than {ALIKE:g} "
    "degrees apart on average. Does the network get the pixels that it was trained on (channel "
    "order, mean, scale), and is it trained?"
)


def hints_of(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> list[str]:
    """Return what there is to be asked about scores (n,) of pairs.

    Example:

    >>> scores, same = np.arange(20.0), np.arange(20) < 10
    >>> hints_of(scores, same) == [REVERSED], hints_of(-scores, same)
    (True, [])
    """
    genuine, impostor = scores[same], scores[~same]
    hints = []
    if len(genuine) and len(impostor) and _reversed(genuine, impostor):
        hints.append(REVERSED)
    if is_cosine(np.asarray(scores, np.float64)):
        angles = [float(np.mean(degrees(part))) for part in (genuine, impostor) if len(part)]
        if angles and max(angles) < ALIKE and len(impostor):
            hints.append(COLLAPSED)
    return hints


def hint_of_vectors(vectors: NDArray[np.floating]) -> str | None:
    """Return the hint that embeddings (n, d), none zero, all have nearly one direction.

    The mean cosine over all pairs is the squared length of the mean unit vector.
    """
    if len(vectors) < 2:
        return None
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    count = len(units)
    mean = float(np.sum(np.mean(units, axis=0, dtype=np.float64) ** 2))
    others = (mean * count - 1) / (count - 1)  # without each with itself
    return COLLAPSED if float(degrees(others)) < ALIKE else None


def warn_of_scores(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> None:
    """Warn of what `hints_of` returns."""
    for hint in hints_of(scores, same):
        warnings.warn(hint, SphereFaceWarning, stacklevel=3)


def _reversed(genuine: NDArray[np.floating], impostor: NDArray[np.floating]) -> bool:
    """Whether the AUC is below one half by more than chance.

    Under chance its variance is (m + n + 1) / (12 m n), that of Mann and Whitney's U, 1947.
    """
    ordered = np.sort(impostor)
    below = np.searchsorted(ordered, genuine, side="left")
    ties = np.searchsorted(ordered, genuine, side="right") - below
    auc = float(np.mean(below + ties / 2)) / len(impostor)
    many, more = len(genuine), len(impostor)
    spread = np.sqrt((many + more + 1) / (12 * many * more))
    return auc < 0.5 - _DEVIATIONS * float(spread)
