"""Teachers whose faces are of another shape than the student's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import tf_sphereface as sf
from tests.embedder.small import FED, make_network
from tf_sphereface import training
from tf_sphereface.data import FaceSource


def test_a_teacher_of_the_other_template_sees_the_faces_with_the_columns_between(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    labels = np.array([0, 0, 1, 1])
    square = training.open_teacher(sf.load_embedder(make_network(size=(112, 112)), **FED))
    narrow = training.open_teacher(sf.load_embedder(make_network(size=(112, 96)), **FED))

    def learned(teacher, images):
        faces = FaceSource((images, labels), image_size=images.shape[1:3], batch_size=2)
        return training.teacher_embeddings(teacher, faces, tmp_path / "kept").table[0]

    cut = np.ascontiguousarray(wide[:, :, 8:104])
    padded = np.pad(cut, ((0, 0), (0, 0), (8, 8), (0, 0)))
    np.testing.assert_allclose(learned(narrow, wide), narrow.embed(cut)[0], atol=1e-3)
    np.testing.assert_allclose(learned(square, cut), square.embed(padded)[0], atol=1e-3)


def test_a_square_teacher_of_a_narrow_student_sees_whole_files(tmp_path):
    """The columns that the student does not see come from the file."""
    wide = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    for number, image in enumerate(wide):
        person = tmp_path / "faces" / str(number // 2)
        person.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(person / f"{number}.png"), image[..., ::-1])
    teacher = training.open_teacher(sf.load_embedder(make_network(size=(112, 112)), **FED))
    faces = FaceSource(tmp_path / "faces", image_size=(56, 48), resize=True, batch_size=2)
    kept = training.teacher_embeddings(teacher, faces, tmp_path / "kept")
    np.testing.assert_allclose(kept.table[0], teacher.embed(wide)[0], atol=1e-3)


def test_a_teacher_of_no_template_s_shape_is_refused():
    narrow = training.open_teacher(sf.load_embedder(make_network(size=(112, 96)), **FED))
    with pytest.raises(ValueError, match="neither scaling nor the columns"):
        narrow.check_shape((112, 160))
