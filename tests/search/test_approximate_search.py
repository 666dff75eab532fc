from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.search.approximate_search import ApproximateSearch
from tf_sphereface.search.exact_search import ExactSearch

pytest.importorskip("usearch")


def test_cosines_are_exact_and_the_recall_is_that_of_counting():
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((3000, 32)), rng.standard_normal((40, 32))
    exact, values = ExactSearch(vectors)(queries, 5)
    search = ApproximateSearch(vectors)
    rows, cosines = search(queries, 5)
    found = rows == exact
    np.testing.assert_allclose(cosines[found], values[found], atol=1e-7)
    shared = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert search.recall(queries, 5) == sum(shared) / exact.size > 0.95
    weak = ApproximateSearch(vectors, connectivity=2, expansion=1)
    assert weak.recall(queries, 5) < search.recall(queries, 5)


def test_what_has_no_direction_finds_nothing():
    search = ApproximateSearch(np.eye(4))
    rows, cosines = search([[0.0, 0, 0, 0], [np.nan, 0, 0, 1], [0, 3, 0, 0]], 1)
    assert rows.tolist() == [[-1], [-1], [1]]
    assert np.isnan(cosines[:2]).all()
    assert ApproximateSearch(np.zeros((0, 4)))(np.eye(4))[0].shape == (4, 0)
    with pytest.raises(ValueError, match="4 long"):
        search(np.eye(3))
