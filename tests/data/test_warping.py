"""Faces turned, moved, scaled and lit otherwise: by how much, and each by its own number."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.data import warping

SIZE, COUNT = (56, 48), 1500


@pytest.fixture
def alone(monkeypatch):
    """Return a function that leaves one change of all as it is."""

    def keep(kept: str) -> None:
        for name in ("TURN", "SCALE", "SHIFT", "CONTRAST", "BRIGHTNESS", "GRAY", "AS_IT_IS"):
            if name != kept:
                monkeypatch.setattr(warping, name, 0.0)

    return keep


def warped(face: np.ndarray) -> np.ndarray:
    return warping.warp(np.repeat(face[None], COUNT, axis=0), np.arange(COUNT)).astype(float)


def disk(row: float, column: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    away = np.hypot(rows - row, columns - column)
    return np.repeat(np.uint8(255 * np.clip(4.5 - away, 0, 1))[..., None], 3, axis=2)


def middles(images: np.ndarray) -> np.ndarray:
    """Return row and column of each image's centre of light, (n, 2)."""
    light = images.mean(axis=3)
    places = np.stack(np.mgrid[: SIZE[0], : SIZE[1]])
    return np.einsum("nhw,chw->nc", light, places) / light.sum((1, 2))[:, None]


def test_each_face_has_its_own_number_and_stays_as_it_was():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    before = images.copy()
    seen = warping.warp(images, np.array([5, 2**62, 5]))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(warping.warp(images[2:], np.array([5]))[0], seen[2])
    assert (warping.warp(images[:1], np.array([6]))[0] != seen[0]).any()


def test_without_any_change_a_face_is_itself(alone):
    alone("none")
    face = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert (warped(face)[:20] == face).all()


def test_one_in_four_is_left_alone():
    face = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    same = (warped(face) == face).all(axis=(1, 2, 3)).mean()
    assert same == pytest.approx(warping.AS_IT_IS, abs=0.045)  # 4 deviations


def test_moves_by_its_share_of_the_height(alone):
    alone("SHIFT")
    away = middles(warped(disk(28, 24))) - (28, 24)
    # the deviation of 1,500 draws is right to 1.8 %: 4 of these; pixels add little
    assert away.std(axis=0) == pytest.approx(warping.SHIFT * SIZE[0], rel=0.08)


def test_turns_about_the_middle(alone):
    alone("TURN")
    row, column = (middles(warped(disk(10, 24))) - (28, 24)).T
    assert np.degrees(np.arctan2(column, -row)).std() == pytest.approx(warping.TURN, rel=0.08)


def test_scales_about_the_middle(alone):
    alone("SCALE")
    row, _ = (middles(warped(disk(16, 24))) - (28, 24)).T
    assert np.log(-row / 12).std() == pytest.approx(warping.SCALE, rel=0.08)


def test_contrast_and_light_change_by_their_deviations(alone):
    face = np.full((*SIZE, 3), 100, np.uint8)
    face[:, 24:] = 140
    alone("CONTRAST")
    seen = warped(face)
    spread = (seen[:, 28, 36, 0] - seen[:, 28, 12, 0]) / 40
    assert np.log(spread).std() == pytest.approx(warping.CONTRAST, rel=0.08)
    assert seen.mean((1, 2, 3)) == pytest.approx(120, abs=0.6)


def test_light_is_added(alone):
    alone("BRIGHTNESS")
    seen = warped(np.full((*SIZE, 3), 128, np.uint8)).mean((1, 2, 3))
    assert seen.std() == pytest.approx(warping.BRIGHTNESS, rel=0.08)


def test_one_in_ten_is_gray(alone):
    alone("GRAY")
    face = np.zeros((*SIZE, 3), np.uint8)
    face[..., 0] = 90
    gray = (warped(face) == 30).all(axis=(1, 2, 3)).mean()
    assert gray == pytest.approx(warping.GRAY, abs=0.031)  # 4 deviations
