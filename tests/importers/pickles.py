"""The tensors of the small checkpoints that tests write, and how an old file begins."""

from __future__ import annotations

import pickle

import numpy as np

HEADER = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(4, 3, 2)).astype("float32"),
    "b.weight": RNG.normal(size=5),
    "c.half": RNG.normal(size=(2, 2)).astype("float16"),
    "d.count": np.array(7),
    "e.mask": np.array([True, False]),
    "f.empty": np.zeros((0, 3), "float32"),
}
