"""Standard error of a mean, and McNemar's test of two classifiers on the same pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.optional import require


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean: sd with n - 1 over the root of n; NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p, given how many pairs one alone decides rightly.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 1947.
    """
    if not only_first + only_second:
        return 1.0
    binomial = require("scipy.stats", extra="eval").binomtest
    return float(binomial(only_first, only_first + only_second).pvalue)
