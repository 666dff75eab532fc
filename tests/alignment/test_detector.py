"""The detector: against the networks called level by level, against mtcnn itself, and by laws."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.boxes import paint, pyramid
from tf_sphereface.alignment.detector import Face, FaceDetector, choose
from tf_sphereface.alignment.mtcnn import _make_networks

SWAPPED = [1, 0, 2, 4, 3]  # left and right of the five points


def face(x1, y1, x2, y2, score=0.9):
    return Face(np.array([x1, y1, x2, y2], float), score, np.zeros((5, 2)))


def test_one_canvas_gives_what_level_by_level_gives(detector, photo):
    levels, canvas = pyramid(*photo.shape[:2], 20)
    scores, offsets = (t.numpy() for t in detector._networks.propose(paint(photo, levels, canvas)))
    for top, left, rows, columns in levels:
        small = cv2.resize(photo, (columns, rows), interpolation=cv2.INTER_AREA)
        alone, moved = (t.numpy() for t in detector._networks.propose(small))
        down, across = (rows - 12) // 2 + 1, (columns - 12) // 2 + 1
        here = np.s_[top // 2 : top // 2 + down, left // 2 : left // 2 + across]
        # float32 sums in another order
        np.testing.assert_allclose(scores[here], alone[:down, :across], atol=1e-5)
        np.testing.assert_allclose(offsets[here], moved[:down, :across], atol=1e-5)


@pytest.mark.slow
def test_finds_what_the_package_finds(detector, photograph):
    """The same faces with the same confidence, on photographs of one, two and no face."""
    from mtcnn import MTCNN

    reference = MTCNN()
    two = photograph(3)
    two[130:242, 190:286] = photograph(5, at=(0, 0))[:112, :96]
    for image in (photograph(2), two, photograph(7, scale=1.7, at=(60, 20))):
        theirs = reference.detect_faces(image, output_type="numpy", box_format="xyxy")
        ours = detector(image)
        assert len(ours) == len(theirs) > 0
        for row in theirs:
            x1, y1, x2, y2 = row[1:5]
            side = max(x2 - x1, y2 - y1)
            match = min(ours, key=lambda f: np.abs(f.box - (x1, y1, x2, y2)).max())
            # the package stretches patches by a pixel, and suppresses boxes by dead ones too
            assert np.abs(match.box - (x1, y1, x2, y2)).max() < 0.08 * side
            assert match.score == pytest.approx(row[5], abs=0.05)
            points = np.stack([row[6:11], row[11:16]], axis=1)
            assert np.hypot(*(match.points - points).T).mean() < 0.05 * side


def test_points_are_where_the_template_has_them(detector, photograph):
    """Rendered faces are aligned by construction, to a few pixels."""
    from tf_sphereface.alignment.align import TEMPLATES

    (found,) = detector(photograph(3, at=(90, 60)))
    errors = np.hypot(*(found.points - TEMPLATES[112, 96] - (90, 60)).T)
    assert errors.mean() < 6.0


def test_mirror_image_has_mirrored_points_in_the_order_of_the_image(detector, photo):
    (upright,), (mirrored,) = detector(photo), detector(np.ascontiguousarray(photo[:, ::-1]))
    back = mirrored.points[SWAPPED]
    back[:, 0] = photo.shape[1] - 1 - back[:, 0]
    assert np.hypot(*(back - upright.points).T).mean() < 2.5  # the pyramid's rounding
    assert upright.points[0, 0] < upright.points[1, 0]  # left as seen in the image
    assert upright.points[3, 0] < upright.points[4, 0]


def test_result_does_not_depend_on_what_runs_beside_it(detector, photograph):
    photos = [photograph(identity, scale=1 + identity / 10) for identity in (1, 3, 5, 7)] * 3
    alone = [detector(image) for image in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector, photos))
    for first, second in zip(alone, together, strict=True):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.points, b.points)
            np.testing.assert_array_equal(a.box, b.box)
            assert a.score == b.score


def test_large_images_are_reduced_and_the_points_brought_back(photo):
    small = FaceDetector(max_side=300)(photo)
    large = FaceDetector(max_side=300)(cv2.resize(photo, None, fx=4, fy=4))
    assert len(small) == len(large) == 1
    # the pixel centre x of the image lies at 4 x + 1.5 of the enlarged one
    np.testing.assert_allclose(large[0].points, small[0].points * 4 + 1.5, atol=4.0)


def test_small_faces_are_left_to_those_who_ask(photo):
    assert FaceDetector()(photo)
    assert not FaceDetector(min_face=200)(photo)


def test_tensorflow_sees_no_retracing(detector, photo, caplog):
    networks = _make_networks.__wrapped__()  # as in a process that loads them again
    for side in (24, 30, 36):
        networks.propose(np.ascontiguousarray(photo[:side, :side]))
    assert "retracing" not in caplog.text


@pytest.mark.parametrize("shape", [(200, 300, 3), (19, 300, 3), (1, 1, 3), (30, 2000, 3)])
def test_no_face(detector, shape):
    assert detector(np.full(shape, 90, np.uint8)) == []


def test_noise_is_no_trouble(detector):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert len(detector(noise)) < 5


@pytest.mark.parametrize("image", [((9, 9), "uint8"), ((9, 9, 3), "float32"), ((0, 9, 3), "uint8")])
def test_wrong_image(detector, image):
    with pytest.raises(ValueError, match="`image` must be uint8 RGB"):
        detector(np.zeros(*image))


@pytest.mark.parametrize(
    "arguments", [{"min_face": 10}, {"min_score": 1.0}, {"max_side": 5}, {"min_face": float("nan")}]
)
def test_wrong_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        FaceDetector(**arguments)


@pytest.mark.parametrize("module", ["mtcnn", "lz4.frame", "joblib"])
def test_missing_package_is_named_with_its_extra(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{module.split(".")[0]} is needed .*\[align\]"'):
        FaceDetector()


def test_choose():
    centre, corner, tall = face(90, 90, 110, 110), face(0, 0, 60, 60), face(150, 0, 199, 100)
    faces = [corner, tall, centre]
    assert choose(faces, (200, 200)) == [centre]
    assert choose(faces, (200, 200), "largest") == [tall]
    assert choose(faces, (200, 200), "all") == [tall, corner, centre]
    assert choose([], (200, 200), "all") == choose([], (200, 200)) == []
    with pytest.raises(ValueError, match="`how` must be one of 'center', 'largest', 'all'"):
        choose(faces, (200, 200), "first")
