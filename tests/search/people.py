"""Embeddings of invented people, that the tests of galleries share."""

from __future__ import annotations

import numpy as np

DIM = 32


def people(count, each, seed=0, spread=0.5):
    """Embeddings (count * each, DIM) around a direction for each person, and their names."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((count, DIM)) / np.sqrt(DIM)
    noise = spread * rng.standard_normal((count, each, DIM)) / np.sqrt(DIM)
    names = [f"p{seed}-{person:03d}" for person in range(count) for _ in range(each)]
    vectors = (centers[:, None] + noise).reshape(-1, DIM) * rng.uniform(1, 9, (count * each, 1))
    return vectors.astype(np.float32), names
