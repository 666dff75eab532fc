"""Landmark files and mappings, checked as a whole before faces are cut out by them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tf_sphereface.alignment.align import read_landmarks
from tf_sphereface.alignment.images import read_image
from tf_sphereface.alignment.plausibility import count_hint, find_faults, is_outside
from tf_sphereface.alignment.template import ORDER
from tf_sphereface.utils.messages import SphereFaceWarning

Landmarks = str | os.PathLike[str] | Mapping[str, np.ndarray]
_SAMPLE, _SHOWN = 20, 3


def load_landmarks(landmarks: Landmarks) -> Mapping[str, np.ndarray]:
    """Return points by name, from a file or as given; ValueError where they are not five each."""
    points = landmarks if isinstance(landmarks, Mapping) else read_landmarks(landmarks)
    for name, five in points.items():
        if np.shape(five) != (5, 2):
            raise ValueError(
                f"{_name(landmarks)}: {name!r} must have five x, y pairs, shape (5, 2). "
                f"Received: shape {np.shape(five)}" + count_hint(np.size(five))
            )
    return points


def find_odd(landmarks: Landmarks, points: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return by name why some of the points cannot be those of faces.

    Raises:
        ValueError: most cannot; the message names the file, its first lines and the likely cause.
    """
    if not points:
        return {}
    faults = find_faults(np.stack([np.asarray(five, np.float64) for five in points.values()]))
    odd = {name: fault for name, fault in zip(points, faults, strict=True) if fault is not None}
    _refuse_most(_name(landmarks), points, odd, len(points))
    return odd


def warn_of_odd(
    landmarks: Landmarks, points: Mapping[str, np.ndarray], odd: dict[str, str]
) -> None:
    """Warn of faces whose points cannot be those of one; they are cut out all the same."""
    if odd:
        name, fault = next(iter(odd.items()))
        warnings.warn(
            f"{_name(landmarks)}: {len(odd):,} of {len(points):,} faces have points that cannot be "
            f"those of a face, such as {name}: {fault}",
            SphereFaceWarning,
            stacklevel=3,
        )


def check_places(landmarks: Landmarks, points: Mapping[str, np.ndarray], root: Path) -> None:
    """Compare points with the sizes of some of the images in `root` that they belong to.

    Raises:
        ValueError: most lie outside; the message names the file, its first lines and the cause.
    """
    where, names = _name(landmarks), list(points)
    odd: dict[str, str] = {}
    corner = seen = 0
    for name in names[:: max(1, len(names) // _SAMPLE)][:_SAMPLE]:
        try:
            height, width = read_image(root / name).shape[:2]
        except (OSError, ValueError):
            continue  # it is reported where it is used
        five = np.asarray(points[name], np.float64)
        seen += 1
        corner += bool((five < np.array([width, height]) / 2).all())
        if is_outside(five, (height, width)):
            odd[name] = "they lie outside the images, and belong to another size or folder of them"
    _refuse_most(where, points, odd, seen)
    if seen >= 5 and corner == seen:
        warnings.warn(
            f"{where}: every face of {seen} images that were looked at lies in the upper left "
            "quarter; are the points of a smaller size of the images?",
            SphereFaceWarning,
            stacklevel=3,
        )


def _refuse_most(
    where: str, points: Mapping[str, np.ndarray], odd: Mapping[str, str], total: int
) -> None:
    """Raise ValueError where more than half of the faces are odd."""
    if 2 * len(odd) <= total:
        return
    causes = list(odd.values())
    cause = max(causes, key=causes.count)
    first = [
        f"{name}: " + " ".join(f"{value:g}" for value in np.ravel(points[name]))
        for name in list(odd)[:_SHOWN]
    ]
    raise ValueError(
        f"{where}: the points of {len(odd):,} of {total:,} images cannot be those of faces. Likely "
        f"cause: {cause}. {ORDER}. The first:\n  " + "\n  ".join(first)
    )


def _name(landmarks: Landmarks) -> str:
    """Return the file's name, or that of the argument where a mapping tells no `path`."""
    if isinstance(landmarks, Mapping):
        return str(getattr(landmarks, "path", "Argument `landmarks`"))
    return os.fspath(landmarks)
