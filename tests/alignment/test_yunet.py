"""OpenCV's YuNet, by a stand-in network of its signature, and the second look with a margin."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.alignment.conftest import make_photo
from tf_sphereface.alignment import YuNetDetector, align_photos, make_detector
from tf_sphereface.alignment.detector import Detector
from tf_sphereface.alignment.images import write_face
from tf_sphereface.alignment.photo_reader import NoFace, PhotoReader

POINTS = np.array([[-6, -8], [6, -8], [0, 0], [-5, 8], [5, 8]])  # around the middle of a cell
BOX = 32  # pixels


def write_stand_in(path) -> None:
    """A network of YuNet's twelve outputs that finds white cells of 8 x 8 pixels.

    Their box is 32 pixels wide, the points are `POINTS`; the coarser maps find nothing.
    """
    nodes, outputs, weights = [], [], []

    def constant(name, values):
        weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    weights.append(numpy_helper.from_array(np.array([1, -1, 1], np.int64), "scores"))
    for stride in (8, 16, 32):
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            kernel, bias = np.zeros((channels, 3, stride, stride)), np.zeros(channels)
            if name in ("cls", "obj"):
                kernel += (stride == 8) * 10 / (255 * kernel[0].size)
                bias -= 9.0  # white 1, anything darker than 90 % of it 0
            elif name == "bbox":
                bias[:] = 0.5, 0.5, np.log(BOX / stride), np.log(BOX / stride)
            else:
                bias[:] = (POINTS / stride + 0.5).ravel()
            raw, moved, out = f"{name}{stride}raw", f"{name}{stride}moved", f"{name}_{stride}"
            given = ["input", constant(f"{out}w", kernel), constant(f"{out}b", bias)]
            nodes.append(
                helper.make_node(
                    "Conv", given, [raw], strides=[stride] * 2, kernel_shape=[stride] * 2
                )
            )
            nodes.append(helper.make_node("Transpose", [raw], [moved], perm=[0, 2, 3, 1]))
            shape = numpy_helper.from_array(np.array([1, -1, channels], np.int64), f"{out}s")
            weights.append(shape)
            nodes.append(helper.make_node("Reshape", [moved, f"{out}s"], [out]))
            outputs.append((out, channels))
    declared = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])]
    results = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "cells", c]) for n, c in outputs
    ]
    graph = helper.make_graph(nodes, "yunet", declared, results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    path = tmp_path_factory.mktemp("yunet") / "yunet.onnx"
    write_stand_in(path)
    return path


def picture(*cells, size=(240, 320)):
    """A gray picture with white cells at rows and columns of 8 pixels."""
    image = np.full((*size, 3), 100, np.uint8)
    for row, column in cells:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    return image


def test_yunet_gives_faces_in_our_layout(stand_in):
    faces = YuNetDetector(stand_in)(picture((10, 20), (20, 5)))
    places = sorted(face.points[2].tolist() for face in faces)
    assert places == [[44, 164], [164, 84]]
    face = next(face for face in faces if face.points[2, 0] == 164)
    np.testing.assert_allclose(face.points - face.points[2], POINTS, atol=1e-4)
    np.testing.assert_allclose(face.box, [148, 68, 180, 100], atol=1e-3)
    assert face.side == pytest.approx(BOX)
    assert face.score == pytest.approx(1.0, abs=1e-4)
    assert YuNetDetector(stand_in, min_face=40)(picture((10, 20))) == []


def test_yunet_averages_large_pictures_and_gives_their_pixels(stand_in):
    large = cv2.resize(picture((10, 20)), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    (face,) = YuNetDetector(stand_in, max_side=320)(large)
    np.testing.assert_allclose(face.points[2], [657.5, 337.5], atol=1e-3)


def test_wrong_files_are_named(tmp_path, stand_in):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        make_detector(tmp_path / "none.onnx")
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"wrong\.onnx: not a file of YuNet"):
        make_detector(wrong)


class Shy(Detector):
    """Finds one face, and only where the picture has more than 100 pixels around it."""

    def __init__(self):
        super().__init__(20, 0.5, 1000)
        self.seen = []

    def detect(self, image, min_face):
        self.seen.append(image.shape[:2])
        bright = np.argwhere(image[..., 0] == 255)
        if not len(bright) or bright.min() < 40:
            return np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
        y, x = bright[0]
        point = np.array([x, y], float)
        return np.array([[x, y, x + 20.0, y + 20.0]]), np.ones(1), (point + POINTS)[None]


def test_where_nothing_is_found_a_margin_is_tried_and_places_are_mapped_back():
    detector = Shy()
    image = np.full((100, 80, 3), 9, np.uint8)
    image[30, 20] = 255
    (face,) = detector(image)
    assert detector.seen == [(100, 80), (200, 180)]
    np.testing.assert_allclose(face.points, np.array([20, 30]) + POINTS)
    np.testing.assert_allclose(face.box, [20, 30, 40, 50])
    image[:] = 9
    image[60, 60] = 255
    detector.seen.clear()
    assert len(detector(image)) == 1
    assert len(detector.seen) == 1  # found at once


def test_tight_crops_are_found_by_mtcnn(detector):
    photo = make_photo(3, scale=2.0, at=(40, 20), size=(260, 280))
    (face,) = detector(photo)
    x1, y1, x2, y2 = (round(float(v)) for v in face.box)
    tight = photo[y1 + 12 : y2 - 4, x1 + 12 : x2 - 8]
    found = detector(np.ascontiguousarray(tight))
    assert len(found) == 1
    error = found[0].points + np.array([x1 + 12, y1 + 12]) - face.points
    assert np.abs(error).max() < 8


def test_readers_and_align_take_a_detector(stand_in, tmp_path):
    image = picture((10, 20), (20, 5))
    write_face(tmp_path / "photos/two.png", image)
    write_face(tmp_path / "photos/none.png", picture())
    result = align_photos(tmp_path / "photos", tmp_path / "out", select="all", detector=stand_in)
    assert result.written == 2
    assert result.counts()["no face"] == 1
    reader = PhotoReader((112, 96), detector=stand_in)
    faces = reader.find_all(image, tmp_path / "photos/two.png")
    assert [face.count for face in faces] == [2, 2]
    assert faces[0].crop.shape == (112, 96, 3)
    with pytest.raises(NoFace, match=r"none\.png: no face"):
        reader(tmp_path / "photos/none.png")
