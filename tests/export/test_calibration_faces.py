"""Calibration faces from memory, from batches, from a folder."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface.export.calibration_faces import calibration_faces, probe_faces

SIZE = (56, 48)


def folder_of(root, faces, size=None):
    for i, face in enumerate(faces):
        (root / f"p{i % 3}").mkdir(exist_ok=True, parents=True)
        image = face if size is None else cv2.resize(face, size[::-1])
        cv2.imwrite(str(root / f"p{i % 3}" / f"{i:03d}.png"), image[..., ::-1])
    return root


def test_an_array_is_taken_up_to_the_limit_in_order(faces):
    np.testing.assert_array_equal(calibration_faces(faces, SIZE), faces)
    few = calibration_faces(faces, SIZE, limit=10)
    assert len(few) == 10
    np.testing.assert_array_equal(few, calibration_faces(faces, SIZE, limit=10))
    assert not np.array_equal(few, calibration_faces(faces, SIZE, limit=10, seed=1))


def test_batches_are_read_only_as_far_as_needed(faces):
    def endless():
        while True:
            yield faces[:7]

    assert calibration_faces(endless(), SIZE, limit=20).shape == (20, *SIZE, 3)
    assert len(calibration_faces([faces[:3], faces[3:5]], SIZE)) == 5
    with pytest.raises(ValueError, match="at least one face"):
        calibration_faces([], SIZE)


def test_a_folder_is_read_through_its_subfolders(tmp_path, faces):
    read = calibration_faces(folder_of(tmp_path, faces[:6]), SIZE)
    expected = faces[[0, 3, 1, 4, 2, 5]]  # p0/000, p0/003, p1/001, ...
    np.testing.assert_array_equal(read, expected)


def test_links_to_folders_are_followed(tmp_path, faces):
    folder_of(tmp_path / "elsewhere", faces[:6])
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "p0").symlink_to(tmp_path / "elsewhere" / "p0")
    np.testing.assert_array_equal(calibration_faces(tmp_path / "chosen", SIZE), faces[[0, 3]])


def test_batches_with_labels_are_refused_by_name(faces):
    with pytest.raises(ValueError, match=r"images alone\. Received: batches of 2 parts"):
        calibration_faces([(faces[:4], [0, 1, 2, 3])], SIZE)


def test_template_crops_are_averaged_down(tmp_path, faces):
    root = folder_of(tmp_path, faces[:3], size=(112, 96))
    assert calibration_faces(root, SIZE).shape == (3, *SIZE, 3)


def test_a_wrong_file_is_named(tmp_path, faces):
    folder_of(tmp_path, faces[:2])
    cv2.imwrite(str(tmp_path / "p0" / "zz.png"), np.zeros((250, 250, 3), np.uint8))
    with pytest.raises(ValueError, match=r"zz\.png: 250x250"):
        calibration_faces(tmp_path, SIZE)
    (tmp_path / "p0" / "zz.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"zz\.png"):
        calibration_faces(tmp_path, SIZE)


def test_a_folder_without_images_and_one_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="holds none"):
        calibration_faces(tmp_path, SIZE)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        calibration_faces(tmp_path / "nowhere", SIZE)


def test_probe_faces_are_the_same_every_time_and_differ():
    faces = probe_faces(SIZE, 4)
    assert faces.shape == (4, *SIZE, 3)
    assert faces.dtype == np.uint8
    np.testing.assert_array_equal(faces, probe_faces(SIZE, 4))
    assert not np.array_equal(faces[0], faces[1])


def test_few_faces_to_calibrate_with_are_told(tiny_net, faces, tmp_path, caplog):
    for count, told in ((31, True), (32, False)):
        caplog.clear()
        sf.export.export_tflite(
            tiny_net, tmp_path / f"{count}.tflite", "int8", calibration=faces[:count]
        )
        assert ("int8 ranges are taken from 31 faces" in caplog.text) is told
