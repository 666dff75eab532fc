"""Alignment: against an independent least-squares solution, real crops, and broken input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.align import TEMPLATES, align, read_landmarks, similarity
from tf_sphereface.alignment.images import read_image

POINTS = np.array([[107, 108], [145, 107], [127, 140], [108, 156], [143, 156]], "float64")


def least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve for a, b, tx, ty in x' = a x - b y + tx, y' = b x + a y + ty."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


def test_templates_are_the_published_numbers() -> None:
    assert set(TEMPLATES) == {(112, 96), (112, 112)}
    np.testing.assert_array_equal(TEMPLATES[112, 96][0], [30.2946, 51.6963])
    np.testing.assert_array_equal(TEMPLATES[112, 96][4], [62.7299, 92.2041])
    np.testing.assert_allclose(
        TEMPLATES[112, 112] - TEMPLATES[112, 96], np.tile([8.0, 0.0], (5, 1)), atol=1e-12
    )
    with pytest.raises(ValueError, match="read-only"):
        TEMPLATES[112, 96][0] = 0


@pytest.mark.parametrize("size", list(TEMPLATES))
def test_similarity_is_the_least_squares_one(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = POINTS + rng.normal(scale=8, size=(5, 2))
        expected = least_squares(points, TEMPLATES[size])
        np.testing.assert_allclose(similarity(points, size), expected, atol=1e-8)


def test_known_transform_is_undone() -> None:
    angle, scale, shift = 0.3, 1.7, np.array([40.0, -12.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = scale * TEMPLATES[112, 96] @ rotation.T + shift
    matrix = similarity(points)
    np.testing.assert_allclose(
        points @ matrix[:, :2].T + matrix[:, 2], TEMPLATES[112, 96], atol=1e-9
    )


def test_landmarks_at_the_template_leave_the_image_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (112, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATES[112, 96]), image)


def test_wider_crop_holds_the_narrower_one() -> None:
    image = np.random.default_rng(1).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    narrow, wide = align(image, POINTS), align(image, POINTS, size=(112, 112))
    assert wide.shape == (112, 112, 3)
    # OpenCV rounds sample positions to 1/32 pixel: neighbours of noise may differ a little
    assert np.mean(np.abs(wide[:, 8:104].astype(int) - narrow) > 16) < 0.02


def test_antialias_averages_where_a_large_face_shrinks() -> None:
    rng = np.random.default_rng(2)
    small = cv2.resize(rng.integers(0, 256, (9, 8, 3), np.uint8), (96, 112))
    large = np.kron(small, np.ones((6, 6, 1))).astype(int)
    grain = rng.integers(0, 2, (*large.shape[:2], 1)) * 120 - 60  # as hair or a sensor has it
    image = np.clip(large + grain, 0, 255).astype(np.uint8)
    points = TEMPLATES[112, 96] * 6 + 2.5  # the centre of each 6x6 block
    plain, averaged = align(image, points), align(image, points, antialias=True)
    quiet = np.s_[4:-4, 4:-4]
    # the mean of 36 pixels has a sixth of their spread
    assert np.abs(averaged[quiet].astype(int) - small[quiet]).mean() < 14
    assert np.abs(plain[quiet].astype(int) - small[quiet]).mean() > 20


def test_antialias_keeps_the_place() -> None:
    """A smooth image has nothing to average away: the crop must not move."""
    image = cv2.resize(np.random.default_rng(3).integers(0, 256, (5, 4, 3), np.uint8), (481, 603))
    points = TEMPLATES[112, 96] * 4.3 + (31, 20)
    plain, averaged = align(image, points), align(image, points, antialias=True)
    assert np.abs(plain.astype(int) - averaged)[2:-2, 2:-2].mean() < 1.5


def test_antialias_leaves_other_faces_alone() -> None:
    image = np.random.default_rng(4).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    for scale in (0.5, 1.0, 2.0, 2.9):  # LFW's 250x250 pixels end at 2.2
        points = TEMPLATES[112, 96] * scale - 20
        np.testing.assert_array_equal(align(image, points), align(image, points, antialias=True))


def test_outside_is_black() -> None:
    crop = align(np.full((75, 75, 3), 200, np.uint8), TEMPLATES[112, 96])
    assert (crop[:65, :65] == 200).all()
    assert (crop[85:] == 0).all()


def test_equals_the_crops_behind_the_reference_embeddings(real_data) -> None:
    parity = np.load(real_data / "mobilefacenet" / "parity.npz")
    landmarks = read_landmarks(real_data / "lfw_subset" / "landmarks.tsv")
    different = []
    for name, expected in zip(parity["names"], parity["images"], strict=True):
        found = align(read_image(real_data / "lfw_subset" / "images" / name), landmarks[name])
        different.append(np.abs(found.astype(int) - expected).max())
    # another OpenCV may round the last bit of a JPEG or of the interpolation differently
    assert max(different) <= 2, different


@pytest.mark.parametrize(
    "image",
    [((9, 9), "uint8"), ((9, 9, 3), "float32"), ((9, 9, 4), "uint8"), ((0, 9, 3), "uint8")],
)
def test_wrong_image(image: tuple) -> None:
    with pytest.raises(ValueError, match="`image` must be uint8 RGB"):
        align(np.zeros(*image), POINTS)


@pytest.mark.parametrize("points", [POINTS[:4], POINTS.T, POINTS * np.nan, POINTS[0]])
def test_wrong_points(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`points` must be five finite"):
        similarity(points)


def test_points_in_one_place() -> None:
    with pytest.raises(ValueError, match="must not all be in one place"):
        similarity(np.ones((5, 2)))


def test_size_without_a_template() -> None:
    with pytest.raises(ValueError, match=r"`size` must be .*\(112, 96\).*\(96, 112\)"):
        similarity(POINTS, (96, 112))


def test_read_landmarks(tmp_path) -> None:
    path = tmp_path / "landmarks.tsv"
    ten = "\t".join(map(str, range(1, 11)))
    text = f"# path, then x y of five points\nÉva/Éva 1.jpg\t{ten}\r\n\nB/B.jpg\t{ten}\n"
    path.write_text(text, encoding="utf-8", newline="")
    landmarks = read_landmarks(path)
    assert list(landmarks) == ["Éva/Éva 1.jpg", "B/B.jpg"]
    np.testing.assert_array_equal(landmarks["Éva/Éva 1.jpg"][2], [5, 6])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg\t1\t2", "line 2: expected a path and 10 numbers"),
        ("a.jpg 1 2 3 4 5 6 7 8 9", "separated by tabs"),
        ("a.jpg" + "\tx" * 10, "line 2: expected numbers"),
        ("first.jpg" + "\t1" * 10, "'first.jpg' is listed twice"),
    ],
)
def test_wrong_landmark_file(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "marks.tsv"
    path.write_text("first.jpg" + "\t1" * 10 + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_landmarks(path)
    assert "marks.tsv" in str(caught.value)


def save(path, image: np.ndarray) -> None:
    ok, data = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(data.tobytes())


@pytest.mark.parametrize(
    "text",
    [
        "2\nlx ly rx ry nx ny mlx mly mrx mry\na b.jpg   1  2  3  4  5 6 7 8 9 10\n",  # CelebA's
        "image_id,lx,ly,rx,ry,nx,ny,mlx,mly,mrx,mry\na b.jpg,1,2,3,4,5,6,7,8,9,10\n",
        "image\tlx\tly\trx\try\tnx\tny\tmlx\tmly\tmrx\tmry\na b.jpg"
        + "".join(f"\t{n}" for n in range(1, 11)),
    ],
)
def test_landmark_files_as_others_write_them(tmp_path, text) -> None:
    (tmp_path / "list.txt").write_text(text)
    (points,) = read_landmarks(tmp_path / "list.txt").items()
    assert points[0] == "a b.jpg"
    np.testing.assert_array_equal(points[1], np.arange(1.0, 11).reshape(5, 2))


def test_json_is_no_landmark_file_and_not_printed_whole(tmp_path) -> None:
    (tmp_path / "points.json").write_text('{"a.jpg": [[1, 2], [3, 4]]}, ' * 1000)
    with pytest.raises(ValueError, match="and no JSON") as caught:
        read_landmarks(tmp_path / "points.json")
    assert len(str(caught.value)) < 400


def test_read_image_gives_rgb(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    path = tmp_path / "Zoë.png"
    save(path, image[:, :, ::-1])
    np.testing.assert_array_equal(read_image(path), image)
    save(path, image[:, :, 0])
    np.testing.assert_array_equal(read_image(path), np.repeat(image[:, :, :1], 3, axis=2))
    transparent = np.dstack([image[:, :, ::-1], np.full((8, 6), 7, np.uint8)])
    save(path, transparent)
    np.testing.assert_array_equal(read_image(path), image)
    save(path, image[:, :, ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), image)


def test_broken_image_is_named(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "face.jpg"
    save(path, image)
    whole = path.read_bytes()
    for data, reason in (
        (b"", "empty file"),
        (b"not an image", "truncated or not an image"),
        (whole[:100], "truncated or corrupt JPEG"),
        (whole[:-30], "truncated or corrupt JPEG"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"face\.jpg: {reason}"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
