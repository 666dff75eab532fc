"""Folders of faces: what is found, decoded, skipped, and named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from tests.data.comparing import PEOPLE, PICTURES, SIZE, batches
from tf_sphereface import data
from tf_sphereface.data import synthetic

# ----- the index


def test_scan_folder(root: Path) -> None:
    index = data.scan_folder(root)
    assert len(index) == PEOPLE * PICTURES
    assert index.num_classes == PEOPLE
    assert index.names == sorted(index.names)
    assert index.paths == sorted(index.paths)
    np.testing.assert_array_equal(index.labels, np.repeat(np.arange(PEOPLE), PICTURES))
    assert index.labels.dtype == np.int32


def test_scan_passes_over_what_is_no_face(root: Path, tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "empty"):
        (tmp_path / name).mkdir()
    picture = next(root.glob("*/*.jpg")).read_bytes()
    for name in ("b/1.JPG", "a/2.png", "a/1.jpeg", ".hidden/1.jpg", "top.jpg", "a/notes.txt"):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "a" / ".1.jpg.part").write_bytes(picture)
    index = data.scan_folder(tmp_path)
    assert index.names == ["a", "b"]
    assert [path.name for path in index.paths] == ["1.jpeg", "2.png", "1.JPG"]


def test_exclude_leaves_identities_out(root: Path) -> None:
    index = data.scan_folder(root, exclude=["Person_000001"])
    assert "Person_000001" not in index.names
    assert index.labels.max() == PEOPLE - 2
    with pytest.raises(ValueError, match="Nobody"):
        data.scan_folder(root, exclude=["Nobody"])


def test_scan_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.scan_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="one folder per identity"):
        data.scan_folder(tmp_path)


# ----- decoding


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_pixels_equal_opencv(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "one").mkdir()
    picture = synthetic.faces(0, 0)[0]
    path = tmp_path / "one" / f"1{suffix}"
    cv2.imwrite(str(path), picture[..., ::-1])
    images, _, _ = data.load_folder(tmp_path)
    expected = cv2.imread(str(path))[..., ::-1]
    # Both decode JPEG by libjpeg's accurate DCT; two levels allow for another build's upsampling.
    assert np.abs(images[0].astype(int) - expected).max() <= (2 if suffix == ".jpg" else 0)


def test_grey_files_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    cv2.imwrite(str(tmp_path / "one" / "1.jpg"), synthetic.faces(0, 0)[0, ..., 0])
    images, _, _ = data.load_folder(tmp_path)
    assert images.shape == (1, 112, 96, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_normalize() -> None:
    values = data.normalize(np.array([0, 127, 128, 255], np.uint8))
    assert values.dtype == tf.float32
    np.testing.assert_array_equal(values, [-127.5 / 128, -0.5 / 128, 0.5 / 128, 127.5 / 128])


def test_damaged_files_are_named_skipped_and_counted(damaged: tuple[Path, dict[str, str]]) -> None:
    folder, expected = damaged
    report, progress = data.SkipReport(), []
    images, labels, index = data.load_folder(
        folder, image_size=SIZE, report=report, progress=lambda *step: progress.append(step)
    )
    assert progress[-1] == (40, 40)
    assert len(images) == len(labels) == len(index) == 35
    assert index.num_classes == PEOPLE
    assert report.count == 5
    reasons = {path.name: reason for path, reason in report.reasons.items()}
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]
        assert name in report.summary()
    assert report.summary().startswith("5 files were skipped")
    assert "and 3 more" in report.summary(limit=2)
    good = [path.name for path in index.paths]
    assert not set(good) & set(expected)
    for image, path in zip(images, index.paths, strict=True):
        assert np.abs(image.astype(int) - cv2.imread(str(path))[..., ::-1]).max() <= 2


@pytest.mark.parametrize("cache", ["memory", "none", "path"])
def test_strict_names_the_damaged_file(
    damaged: tuple[Path, dict[str, str]], tmp_path: Path, cache: str
) -> None:
    folder, expected = damaged
    first = min(expected)
    where = tmp_path / "cache" if cache == "path" else cache
    with pytest.raises(ValueError, match=f"{first}.*truncated"):
        data.face_dataset(folder, image_size=SIZE, batch_size=4, strict=True, cache=where)
    assert not list(tmp_path.glob("cache*"))


def test_nothing_but_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 files"):
        data.face_dataset(tmp_path)


def test_another_size_is_an_error_unless_resize(root: Path) -> None:
    with pytest.raises(ValueError, match=r"0001.jpg is 56x48 pixels, expected 112x96.*resize"):
        data.face_dataset(root)
    (images, _), *_ = data.face_dataset(root, batch_size=4, resize=True)
    assert images.shape == (4, 112, 96, 3)


def test_faces_that_do_not_fit_into_memory_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = PEOPLE * PICTURES * SIZE[0] * SIZE[1] * 3
    monkeypatch.setattr("tf_sphereface.utils.hardware.free_memory", lambda: need - 1)
    for read in (data.face_dataset, data.load_folder):
        with pytest.raises(ValueError, match=r"faces of 56x48 take .* are free: .*--cache none"):
            read(root, image_size=SIZE)
    told: list[str] = []
    data.FaceSource(root, image_size=SIZE).count(doubt=told.append)
    data.FaceSource(root, image_size=SIZE, cache="none").count(doubt=told.append)
    assert [text for text in told if "are free" in text] == told[:1]
    data.face_dataset(root, image_size=SIZE, batch_size=4, cache="none")
    monkeypatch.setattr("tf_sphereface.utils.hardware.free_memory", lambda: need)
    data.load_folder(root, image_size=SIZE)


def test_arrays_stay_where_they_are(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (64, *SIZE, 3))
    source = (images, np.arange(64))
    dataset = data.face_dataset(
        source, image_size=SIZE, batch_size=4, augment="none", dtype="uint8", shuffle=False
    )
    images[:4] = np.arange(4, dtype=np.uint8)[:, None, None, None]  # no copy was made before
    (batch, _), *_ = dataset
    assert batch[:, 0, 0, 0].numpy().tolist() == [0, 1, 2, 3]
    graph = dataset._as_serialized_graph().numpy()  # a table in it is copied by tf.data's rewriting
    assert len(graph) < images.nbytes / 4


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_resize_averages_areas(tmp_path: Path, cache: str) -> None:
    synthetic.write_folder(tmp_path, 2, 2)
    dataset = data.face_dataset(
        tmp_path, image_size=SIZE, batch_size=4, resize=True, cache=cache, augment="none",
        shuffle=False,
    )  # fmt: skip
    (images, _), *_ = batches(dataset)
    whole, _, _ = data.load_folder(tmp_path)
    shrunk = [cv2.resize(face, (48, 56), interpolation=cv2.INTER_AREA) for face in whole]
    np.testing.assert_array_equal(images, data.normalize(np.stack(shrunk)))


def test_a_file_that_breaks_while_streaming_stops_the_run(tmp_path: Path) -> None:
    folder = synthetic.write_folder(tmp_path, 2, 4, size=SIZE)
    dataset = data.face_dataset(folder, image_size=SIZE, batch_size=8, cache="none")
    victim = sorted(folder.glob("*/*.jpg"))[2]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    message = f"{victim.name} cannot be decoded: truncated"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        batches(dataset)
    victim.unlink()
    with pytest.raises(tf.errors.NotFoundError, match=f"{victim.name}; No such file"):
        batches(dataset)
