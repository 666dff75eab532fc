"""Outputs of heads to measure."""

from __future__ import annotations

import numpy as np

from tf_sphereface.losses.head_output import join

CLASSES = 7


def head_outputs(seed: int, rows: int, bias: float | None = None) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    cosines = np.clip(rng.normal(0, 0.3, (rows, CLASSES)), -1, 1).astype(np.float32)
    labels = rng.integers(0, CLASSES, rows)
    cosines[np.arange(rows), labels] = np.clip(rng.normal(0.5, 0.3, rows), -1, 1)
    norms = rng.uniform(0.5, 30, (rows, 1)).astype(np.float32)
    return np.asarray(join(cosines * norms, norms, bias)), labels, cosines
