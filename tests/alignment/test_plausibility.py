"""Points that cannot be those of faces: refused with the likely cause, and real ones are not."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment import TEMPLATES, align, align_by_landmarks, read_landmarks
from tf_sphereface.alignment.face_reader import FaceReader, Problems
from tf_sphereface.alignment.landmarks import find_odd, load_landmarks
from tf_sphereface.alignment.plausibility import check_face, count_hint, find_faults

FIVE = TEMPLATES[112, 96] + np.array([50.0, 40.0])
SIZE = (200, 200)

NONSENSE = {
    "columns": (lambda five: five.T.reshape(5, 2), "order x1 ... x5 y1"),
    "swapped": (lambda five: five[[1, 0, 2, 4, 3]], "left and right are swapped"),
    "eyes": (lambda five: five[[1, 0, 2, 3, 4]], "left and right eye"),
    "mouth": (lambda five: five[[0, 1, 2, 4, 3]], "mouth corner"),
    "mirrored image": (lambda five: five * [-1, 1] + [200, 0], "mirrored"),
    "y, x": (lambda five: five[:, ::-1], "x and y are in the other order"),
    "y upwards": (lambda five: five * [1, -1] + [0, 200], "y counts upwards"),
    "nose last": (lambda five: five[[0, 1, 3, 4, 2]], "nose comes last"),
    "upside down": (lambda five: 200 - five, "upside down"),
    "fractions": (lambda five: five / 200, "0 to 1"),
    "centred fractions": (lambda five: five / 100 - 1, "0 to 1"),
    "zeros": (lambda five: five * 0, "all in one place"),
    "equal": (lambda five: five * 0 + 77, "all in one place"),
    "not finite": (lambda five: five * np.nan, "not finite"),
    "outside": (lambda five: five + 400, "outside the image"),
    "another size": (lambda five: five * 2, "outside the image"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_has_a_cause(name):
    change, cause = NONSENSE[name]
    assert cause in (check_face(change(FIVE), SIZE) or "")
    with pytest.raises(ValueError, match="Argument `points` must"):
        align(np.zeros((*SIZE, 3), np.uint8), change(FIVE))


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ rotation.T


def test_faces_that_are_turned_are_faces():
    profile = FIVE * [0.1, 1] + [70, 0]
    profile[2, 0] += 15
    for points in (FIVE, profile):
        for degrees in (-90, -45, 0, 45, 90):
            assert check_face(turned(points, degrees)) is None


@pytest.mark.parametrize("file", ["lfw_landmarks/deepfunneled_250.tsv", "lfw_subset/landmarks.tsv"])
def test_no_real_face_is_refused(real_data, file):
    points = load_landmarks(real_data / file)
    assert not find_odd(real_data / file, points)
    faces = np.stack(list(points.values()))
    for degrees in (-45, 45):
        assert not any(find_faults(turned(faces - 125, degrees)))
    # of nonsense made of them, next to all is seen
    columns = find_faults(faces.transpose(0, 2, 1).reshape(-1, 5, 2))
    assert np.mean([fault is not None for fault in columns]) > 0.99


def write(path: Path, faces: dict[str, np.ndarray]) -> Path:
    lines = ["\t".join([name, *map(str, np.ravel(five))]) for name, five in faces.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        image = np.full((*SIZE, 3), 90 + number, np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), image)
    return tmp_path


def faces_of(change=lambda five: five, count: int = 5) -> dict[str, np.ndarray]:
    return {f"{number}.png": change(FIVE + number) for number in range(count)}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_file_of_nonsense_is_refused(photos, name):
    change, cause = NONSENSE[name]
    file = write(photos / "five.tsv", faces_of(change))
    with pytest.raises(ValueError, match=r"five\.tsv: the points of 5 of 5 images") as caught:
        align_by_landmarks(photos / "photos", photos / "faces", file)
    assert "Likely cause" in str(caught.value)
    assert cause.removesuffix(" the image") in str(caught.value)
    assert "\n  0.png: " in str(caught.value)
    assert not (photos / "faces").exists()
    with pytest.raises(ValueError, match="Argument `landmarks`: the points of 5 of 5"):
        align_by_landmarks(photos / "photos", photos / "faces", faces_of(change))


def test_one_odd_face_among_many(photos):
    faces = faces_of() | {"2.png": NONSENSE["swapped"][0](FIVE), "3.png": FIVE * np.nan}
    file = write(photos / "five.tsv", faces)
    result = align_by_landmarks(photos / "photos", photos / "faces", file)
    assert result.written == 3
    assert [outcome.found.name for outcome in result.failed] == ["2.png", "3.png"]
    assert {outcome.problem for outcome in result.failed} == {"points of no face"}
    assert "left and right" in result.failed[0].detail

    with pytest.warns(UserWarning, match=r"2 of 5 faces have points .* such as 2\.png"):
        reader = FaceReader((112, 96), file)
    assert reader(photos / "photos/2.png", "2.png").shape == (112, 96, 3)
    with pytest.raises(ValueError, match="finite"):
        reader(photos / "photos/3.png", "3.png")


def test_evaluation_refuses_points_of_another_size(photos):
    reader = FaceReader((112, 96), write(photos / "five.tsv", faces_of(lambda p: p * 2)))
    with reader.pool() as pool, pytest.raises(ValueError, match=r"five\.tsv: .*another size"):
        reader.read_all(pool, photos / "photos", ["0.png"], Problems())


def test_points_of_a_smaller_size_are_doubted(photos):
    with pytest.warns(UserWarning, match="upper left quarter"):
        align_by_landmarks(photos / "photos", photos / "faces", faces_of(lambda p: p / 2))


def test_more_points_than_five(tmp_path):
    many = np.arange(136.0).reshape(68, 2)
    with pytest.raises(ValueError, match=r"\(68, 2\)\. Of 68 points take five"):
        load_landmarks({"a.jpg": many})
    assert count_hint(15) == ". The 5 numbers more may be a box and its score"
    with pytest.raises(ValueError, match=r"136 fields .* Of 68 points take five"):
        load_landmarks(write(tmp_path / "many.tsv", {"a.jpg": many}))


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_utf8(tmp_path):
    ten = b"\t".join(b"%g" % value for value in FIVE.ravel())
    (tmp_path / "five.tsv").write_bytes(b"\xef\xbb\xbfcaf\xe9.jpg\t" + ten + b"\n")
    assert [os.fsencode(name) for name in read_landmarks(tmp_path / "five.tsv")] == [b"caf\xe9.jpg"]
