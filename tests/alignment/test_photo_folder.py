"""Aligning a folder from Python: outcomes, progress, and arguments that are refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment import (
    TEMPLATES,
    align,
    align_by_landmarks,
    align_photos,
    read_image,
    read_landmarks,
)


def test_photographs(tmp_path, photo):
    source, target = tmp_path / "photos", tmp_path / "faces"
    source.mkdir()
    cv2.imwrite(str(source / "one.png"), photo[..., ::-1])
    cv2.imwrite(str(source / "wall.png"), np.full((90, 90, 3), 120, np.uint8))
    steps: list[tuple[int, int]] = []
    result = align_photos(source, target, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    assert [outcome.found.files for outcome in result.outcomes] == [["one.png"], []]
    assert [outcome.problem for outcome in result.failed] == ["no face"]
    assert (result.written, result.kept, result.report_written) == (1, 0, True)
    points = read_landmarks(target / "landmarks.tsv")["one.png"]
    face = align(photo, points, antialias=True)
    np.testing.assert_array_equal(read_image(target / "one.png"), face)
    again = align_photos(source, target, min_face=28)  # an integer is the same setting
    assert (again.written, again.kept) == (0, 1)


def test_given_points(tmp_path, photo):
    source, target = tmp_path / "photos", tmp_path / "faces"
    source.mkdir()
    cv2.imwrite(str(source / "one.png"), photo[..., ::-1])
    points = {"one.png": TEMPLATES[112, 96] + 50, "absent.png": TEMPLATES[112, 96]}
    result = align_by_landmarks(source, target, points, size=(112, 112), jobs=1)
    assert [outcome.detail for outcome in result.outcomes] == ["", "missing"]
    face = align(photo, points["one.png"], (112, 112))
    np.testing.assert_array_equal(read_image(target / "one.png"), face)
    with pytest.raises(ValueError, match="names no image"):
        align_by_landmarks(source, target, {})


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (64, 64)},
        {"select": "smallest"},
        {"min_face": 5},
        {"max_side": 5},
        {"every": 0},
        {"format": "gif"},
        {"quality": 0},
        {"jobs": 0},
        {"report": "x.csv"},
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments):
    (name,) = arguments
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=f"Argument `{name}` must .* Received: "):
        align_photos(tmp_path / "photos", tmp_path / "faces", **arguments)
    assert not (tmp_path / "faces").exists()
