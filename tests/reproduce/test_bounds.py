"""The lower bounds of m, against the formulas of the derivation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tf_sphereface import angular
from tf_sphereface.reproduce import bounds


@pytest.mark.parametrize("case", bounds.ARRANGEMENTS, ids=lambda case: case.name)
def test_crossing_is_the_bound_where_there_is_one(case: bounds.Arrangement) -> None:
    found = bounds.crossing(case.centers, rays=72)
    if case.bound is not None:
        assert found == pytest.approx(case.bound, abs=1e-6)  # the root is bisected to 1e-7
    else:
        assert 3 < found < bounds.TWO_CLASSES  # corners: more than 3, and m = 4 suffices


@pytest.mark.parametrize("vertices", [4, 6, 8, 12])
def test_more_rays_find_the_same(vertices: int) -> None:
    """A solid's corners lie at multiples of 36, 45 or 60 degrees, on one of the rays."""
    centers = bounds.regular_solid(vertices)
    found, finer = (bounds.widest_and_nearest(centers, 3.3, rays) for rays in (bounds.RAYS, 1080))
    assert found == pytest.approx(finer, abs=1e-8)


@pytest.mark.parametrize("margin", [2.5, 3.7, 5.0])
@pytest.mark.parametrize("apart", [40.0, 100.0])
def test_regions_are_those_of_the_derivation(margin: float, apart: float) -> None:
    widest, nearest = bounds.widest_and_nearest(bounds.on_circle([0, apart]), margin)
    assert widest == pytest.approx(apart / (margin - 1) + apart / (margin + 1), abs=1e-8)
    assert nearest == pytest.approx(apart * (margin - 1) / (margin + 1), abs=1e-8)


def test_a_point_is_inside_exactly_where_the_multiplied_angle_is_smaller() -> None:
    """psi_m(t1) > cos(t2) is the same as m t1 < t2, also past pi / m, where psi is below -1."""
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0, math.pi, (2, 10_000))
    for margin in (1.5, 3.0, 3.9):
        apart = np.abs(margin * one - two) > 1e-9
        by_psi = angular.psi_of_angle(one, margin) > np.cos(two)
        assert np.array_equal(by_psi[apart], (margin * one < two)[apart])


def test_psi_of_angles_is_psi_of_cosines() -> None:
    theta = np.linspace(0, math.pi, 301)
    for margin in (1.0, 1.7, 4.0):
        expected = np.asarray(angular.psi_real(np.cos(theta), margin))
        assert np.allclose(angular.psi_of_angle(theta, margin), expected, atol=1e-6)


def test_solids_are_regular() -> None:
    for vertices, neighbours in ((4, 3), (6, 4), (8, 3), (12, 5)):
        corners = bounds.regular_solid(vertices)
        assert np.allclose(np.linalg.norm(corners, axis=1), 1)
        cosines = np.round(corners @ corners.T - 2 * np.eye(vertices), 9)
        assert np.all((cosines == cosines.max()).sum(axis=1) == neighbours)
    with pytest.raises(ValueError, match=r"`vertices` must be 4, 6, 8 or 12.*vertices=5"):
        bounds.regular_solid(5)


def test_no_crossing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"must cross\. Received: no crossing in 4"):
        bounds.crossing(bounds.evenly_on_circle(4), low=4.0)
