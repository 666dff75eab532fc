"""Identification: ranks among distractors (MegaFace), watch lists (BLUFR), templates (IJB).

Every cosine is computed, in float64, a block at a time: results are exact and do not depend on the
size of the blocks. A gallery may be a memory map.
"""

from __future__ import annotations

from tf_sphereface.eval.identification.distractors import RANKS, DistractorResult, with_distractors
from tf_sphereface.eval.identification.rates import RatesAtFar, pool_templates
from tf_sphereface.eval.identification.watch_list import (
    BLUFRResult,
    OpenSetResult,
    blufr,
    open_set,
    verify_all_pairs,
)

__all__ = [
    "RANKS",
    "BLUFRResult",
    "DistractorResult",
    "OpenSetResult",
    "RatesAtFar",
    "blufr",
    "open_set",
    "pool_templates",
    "verify_all_pairs",
    "with_distractors",
]
