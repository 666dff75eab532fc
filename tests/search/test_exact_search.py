from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.search import exact_search, int8_products
from tf_sphereface.search.candidates import top_candidates
from tf_sphereface.search.exact_search import ExactSearch


def gaussian(rows, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def by_sorting(vectors, queries, k):
    """The oracle: all cosines in float64, sorted; of equal ones the lower row first."""
    x, y = np.asarray(vectors, np.float64), np.asarray(queries, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    cosines = y @ x.T
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, axis=1)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("rows", "dim", "k"), [(5, 3, 2), (20_000, 64, 1), (9_000, 48, 8_900)])
def test_it_is_what_sorting_gives(precision, rows, dim, k):
    vectors, queries = gaussian(rows, dim), 40 * gaussian(3, dim, 1)
    found, cosines = ExactSearch(vectors, precision)(queries, k)
    expected, values = by_sorting(vectors, queries, k)
    np.testing.assert_allclose(cosines, values, atol=2e-7)  # rows are rounded to float32
    swapped = found != expected  # such as 1e-9 apart in float64
    assert np.abs(values[swapped] - cosines[swapped]).max(initial=0) < 2e-7
    assert swapped.mean() < 0.01


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_near_duplicates_in_ascending_order_are_told_apart(precision):
    """Each row beats all before it, by less than int8 can tell."""
    direction, other = np.eye(2, 96)
    angles = np.linspace(0.9, 0.6, 17_000)
    vectors = np.cos(angles)[:, None] * direction + np.sin(angles)[:, None] * other
    search = ExactSearch(vectors, precision)
    assert search(direction[None], 3)[0].tolist() == [[16_999, 16_998, 16_997]]


def test_of_equal_rows_the_lowest_comes_first_in_any_batch():
    vectors = np.tile(gaussian(50, 32), (400, 1))
    queries = gaussian(300, 32, 1)
    for precision in ("float32", "int8"):
        search = ExactSearch(vectors, precision)
        rows, cosines = search(queries, 3)
        assert (rows[:, 0] < 50).all()
        assert (np.diff(rows, axis=1) == 50).all()
        for at in (0, 1, 299):
            alone, values = search(queries[at : at + 1], 3)
            assert alone.tolist() == [rows[at].tolist()]
            assert values.tolist() == [cosines[at].tolist()]


def test_of_cosines_that_rounding_takes_beyond_1_the_lower_row_comes_first():
    vectors = np.array([[1.0000001, 0], [1.0000002, 0]], np.float32)
    rows, cosines = ExactSearch(vectors, "float32")([[1, 0]], 2)
    assert (rows.tolist(), cosines.tolist()) == ([[0, 1]], [[1, 1]])


def test_one_query_with_many_equal_rows_beside_others_without():
    vectors = gaussian(3_000, 32)
    vectors[1_000:] = vectors[0]
    queries = np.concatenate([vectors[:1], gaussian(40, 32, 1)])
    vectors[1_000:1_040] = queries[1:]
    for precision in ("float32", "int8"):
        search = ExactSearch(vectors, precision)
        rows = search(queries, 3)[0]
        assert rows[0].tolist() == [0, 1_040, 1_041]
        assert rows[1:, 0].tolist() == list(range(1_000, 1_040))
        assert rows[1:].tolist() == search(queries[1:], 3)[0].tolist()


def test_threads_that_share_the_rows_find_what_sorting_gives(monkeypatch):
    monkeypatch.setattr(exact_search, "_BLOCK", 500)
    monkeypatch.setattr(exact_search, "_PRODUCTS", 1)
    monkeypatch.setattr(exact_search.os, "cpu_count", lambda: 5)
    vectors, queries = gaussian(6_300, 48), gaussian(40, 48, 1)
    search = ExactSearch(vectors, "int8")
    assert search(queries, 7)[0].tolist() == by_sorting(vectors, queries, 7)[0].tolist()
    more = ExactSearch(vectors, "float32")(queries, 700)  # than a block has
    np.testing.assert_array_equal(search(queries, 700), more)
    assert search(queries[:1], 7)[0].tolist() == search(queries, 7)[0][:1].tolist()


def test_too_many_int8_candidates_are_counted_in_float32():
    vectors = np.ones((70_000, 8)) + 1e-4 * gaussian(70_000, 8)
    search = ExactSearch(vectors, "int8")
    queries = np.ones((2, 8))
    parts, errors, _ = search._int8.score(exact_search.unit_rows(queries), 2)
    assert top_candidates(parts, errors, 1, 70_000 // 64 * 2) is None
    np.testing.assert_array_equal(
        search(queries, 5)[1], ExactSearch(vectors, "float32")(queries, 5)[1]
    )


def test_processors_without_wide_sums_take_fewer_levels(monkeypatch):
    monkeypatch.setattr(int8_products, "_exact_levels", lambda dim: 63)
    vectors, queries = gaussian(9_000, 64), gaussian(4, 64, 1)
    expected = by_sorting(vectors, queries, 5)[0]
    assert ExactSearch(vectors, "int8")(queries, 5)[0].tolist() == expected.tolist()


def test_int8_begins_where_it_pays(monkeypatch):
    monkeypatch.setattr(exact_search, "_INT8_FROM", 9_000 * 16)
    vectors, queries = gaussian(9_000, 16), gaussian(200, 16, 1)
    search, small = ExactSearch(vectors), ExactSearch(vectors[:-1])
    first = search(queries, 2)
    assert search.precision == "float32"
    second = search(queries, 2)
    assert search.precision == "int8"
    assert first[0].tolist() == second[0].tolist()
    assert first[1].tolist() == second[1].tolist()
    small(np.tile(queries, (2, 1)))
    assert small.precision == "float32"


def test_queries_without_a_direction_find_nothing_and_others_their_own():
    search = ExactSearch(np.eye(3))
    queries = np.array([[0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 1], [1e-30, 0, 0], [0, 1e200, 0]])
    rows, cosines = search(queries, 1)
    assert rows[:, 0].tolist() == [-1, -1, -1, 0, 1]
    assert np.isnan(cosines[:3, 0]).all()
    assert cosines[3:, 0].tolist() == [1.0, 1.0]
    assert search(np.zeros((0, 3)))[0].shape == (0, 1)
    assert ExactSearch(np.zeros((0, 3)))(np.eye(3), 2)[0].shape == (3, 0)


def test_what_cannot_be_searched_is_refused():
    search = ExactSearch(np.eye(3))
    with pytest.raises(ValueError, match=r"searched are 3 long. Received: shape \(2, 4\)"):
        search(np.ones((2, 4)))
    with pytest.raises(ValueError, match="queries"):
        search(np.array([["a", "b", "c"]]))
    with pytest.raises(ValueError, match="row 1 "):
        ExactSearch([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="row 9000 "):
        ExactSearch(
            np.concatenate([exact_search.unit_rows(gaussian(9_000, 4)), np.full((1, 4), np.nan)])
        )
    with pytest.raises(ValueError, match="shape"):
        ExactSearch(np.ones(3))
    with pytest.raises(ValueError, match="`k`"):
        search(np.eye(3), 0)


def test_unit_rows_in_float32_are_used_where_they_are():
    vectors = exact_search.unit_rows(gaussian(10, 4))
    search = ExactSearch(vectors)
    assert np.shares_memory(search.vectors, vectors)
    assert vectors.flags.writeable
