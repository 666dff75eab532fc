"""Image files of every encoding: evaluation, training and packing see the same pixels."""

from __future__ import annotations

import functools
import io
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.comparing import batches
from tf_sphereface import data
from tf_sphereface.alignment import align_photos
from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES
from tf_sphereface.data import synthetic
from tf_sphereface.data.decoding import resize
from tf_sphereface.eval.folder import random_pairs, scan
from tf_sphereface.export.calibration_faces import calibration_faces

FACE = synthetic.faces(0, 0)[0]
PLAIN = Image.fromarray(FACE)
DEEP = FACE.astype(np.uint16) * 257


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    """A JPEG that lies on its side, with the mark that says so."""
    exif = Image.Exif()
    exif[0x112] = 6
    return encode(PLAIN.rotate(90, expand=True), "JPEG", quality=95, subsampling=0, exif=exif)


# what is read differs from the face by the encoding's own loss: mean of a pixel's levels
@pytest.mark.parametrize(
    ("name", "content", "loss"),
    [
        ("turned.jpg", turned(), 6.0),
        ("progressive.jfif", encode(PLAIN, "JPEG", quality=95, progressive=True), 6.0),
        ("palette.png", encode(PLAIN.convert("P"), "PNG"), 40.0),
        ("deep.png", cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes(), 0.0),
        ("gray.png", encode(PLAIN.convert("L"), "PNG"), 40.0),
        ("gray.jpg", encode(PLAIN.convert("L"), "JPEG", quality=95), 40.0),
        ("clear.png", encode(PLAIN.convert("RGBA"), "PNG"), 0.0),
        ("plain.webp", encode(PLAIN, "WEBP", lossless=True), 0.0),
        ("plain.BMP", encode(PLAIN, "BMP"), 0.0),
        ("plain.tif", encode(PLAIN, "TIFF"), 0.0),
        ("deep.tiff", cv2.imencode(".tif", DEEP[..., ::-1])[1].tobytes(), 0.0),
    ],
)
def test_every_way_reads_the_same_pixels(
    tmp_path: Path, name: str, content: bytes, loss: float
) -> None:
    root = tmp_path / "faces"
    (root / "one").mkdir(parents=True)
    path = root / "one" / name
    path.write_bytes(content)

    evaluated = FaceReader((112, 96))(path, name)
    assert np.abs(evaluated.astype(int) - FACE).mean() <= loss
    np.testing.assert_array_equal(read_photo(path), evaluated)
    np.testing.assert_array_equal(calibration_faces(root, (112, 96))[0], evaluated)

    images, _, index = data.load_folder(root)
    assert index.paths == [path]
    np.testing.assert_array_equal(images[0], evaluated)

    packed = data.pack_folder(root, tmp_path / "packed").path
    pack = data.open_pack(packed)
    assert pack.read(np.array([0]))[0] == content
    assert pack.image_size == (112, 96)
    settings = {"batch_size": 1, "training": False}
    for dataset in (
        data.face_dataset(root, cache="none", **settings),
        data.face_dataset(root, cache=tmp_path / "cache", **settings),
        data.face_dataset(packed, **settings),
    ):
        ((batch, _),) = batches(dataset)
        np.testing.assert_array_equal(batch[0], data.normalize(evaluated))


def test_every_way_lists_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    names = [f"a{suffix}" for suffix in IMAGE_SUFFIXES]
    for name in (*names, "d.txt", ".e.jpg"):
        (tmp_path / "one" / name).write_bytes(b"")
    (tmp_path / "one" / "folder.jpg").mkdir()
    listed = sorted(f"one/{name}" for name in names)
    assert find_images(tmp_path) == listed
    assert scan(tmp_path) == {"one": listed}
    assert data.scan_folder(tmp_path).paths == [tmp_path / name for name in listed]


def test_training_needs_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "deep.png"
    path.write_bytes(cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes())
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.testing.assert_array_equal(data.load_folder(tmp_path)[0][0], FACE)
    np.testing.assert_array_equal(read_photo(path), FACE)


def palette_bmp(gray: np.ndarray, bits: int = 8) -> bytes:
    """A BMP whose palette runs from white to black."""
    colours = 1 << bits
    levels = np.linspace(255, 0, colours).astype(np.uint8)
    indices = (colours - 1) - (gray.astype(int) * (colours - 1) // 255).astype(np.uint8)
    if bits == 1:
        indices = np.packbits(indices, axis=1)
    indices = np.pad(indices, ((0, 0), (0, -indices.shape[1] % 4)))
    pixels = indices[::-1].tobytes()
    table = np.stack([levels, levels, levels, 0 * levels], axis=1).tobytes()
    start, (height, width) = 54 + len(table), gray.shape
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(pixels), 0, 0, colours, 0)
    return head + size + table + pixels


GRAY = np.asarray(PLAIN.convert("L"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inverted.bmp", palette_bmp(GRAY)),
        ("two.bmp", palette_bmp(GRAY, 1)),
        ("one.png", encode(PLAIN.convert("1"), "PNG")),
        ("alpha.png", encode(PLAIN.convert("LA"), "PNG")),
        ("cmyk.jpg", encode(PLAIN.convert("CMYK"), "JPEG", quality=95)),
        ("still.gif", encode(PLAIN, "GIF")),
        ("plain.avif", encode(PLAIN, "AVIF")),
        ("lossless.jp2", encode(PLAIN, "JPEG2000")),
        ("plain.ppm", encode(PLAIN, "PPM")),
        ("lies.jpg", encode(PLAIN, "PNG")),
        ("nothing", encode(PLAIN, "PNG")),
        ("Tom.0001", encode(PLAIN, "JPEG", quality=95)),
    ],
)
def test_every_kind_is_read_as_a_viewer_shows_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes(content)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    (image,), _, index = data.load_folder(tmp_path)
    assert index.paths == [tmp_path / "one" / name]
    assert np.abs(image.astype(int) - np.asarray(shown)).mean() < 2  # of mixing inks
    np.testing.assert_array_equal(FaceReader((112, 96))(tmp_path / "one" / name, name), image)
    np.testing.assert_array_equal(read_photo(tmp_path / "one" / name), image)


def test_animations_are_refused_everywhere(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    frames = [PLAIN.rotate(90), PLAIN.rotate(180)]
    for kind, suffix in (("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        content = encode(PLAIN.copy(), kind, save_all=True, append_images=frames)
        (tmp_path / "one" / f"a.{suffix}").write_bytes(content)
    (tmp_path / "one" / "still.png").write_bytes(encode(PLAIN, "PNG"))
    report = data.SkipReport()
    assert len(data.load_folder(tmp_path, report=report)[0]) == 1
    assert len(report.reasons) == 4
    assert all("animation or several pages" in reason for reason in report.reasons.values())


def test_what_is_passed_over_is_said_or_refused(tmp_path: Path) -> None:
    root = synthetic.write_folder(tmp_path / "faces", 3, 3)
    person = root / "Person_000000"
    (person / "Person_000000_0001.jpg").unlink()
    (person / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (root / "Person_000001/2019").mkdir()
    path = root / "Person_000001/Person_000001_0001.jpg"
    path.rename(path.parent / "2019" / path.name)
    (root / "loose.jpg").write_bytes((person / "Person_000000_0002.jpg").read_bytes())
    report = data.SkipReport()
    images = data.load_folder(root, report=report)[0]
    assert len(images) == 7
    assert report.count == 0
    assert report
    assert report.passed_over.counts == {".heic": 1, "deep": 1, "loose": 1}
    assert "1 .heic, such as" in report.summary()
    with pytest.warns(UserWarning, match=r"1 \.heic"):
        data.check_folder(root)
    with pytest.warns(UserWarning, match="a level too deep"):
        scan(root)
    for cache in ("memory", "none"):
        with pytest.raises(ValueError, match=r"a strict run leaves no image out"):
            data.face_dataset(root, cache=cache, strict=True)
    with pytest.raises(ValueError, match=r"loose\.jpg"):
        data.pack_folder(root, tmp_path / "strict", strict=True)
    result = data.pack_folder(root, tmp_path / "packed")
    assert (result.images, result.passed_over.lost) == (7, 3)
    with pytest.warns(UserWarning, match="1 loose"):
        assert data.write_rec(root, tmp_path / "rec").images == 7
    for list_images in (
        functools.partial(scan, strict=True),
        functools.partial(find_images, strict=True),
        functools.partial(random_pairs, folds=2, strict=True),
        functools.partial(data.read_face_set, strict=True),
        functools.partial(data.write_rec, target=tmp_path / "strict.rec", strict=True),
    ):
        with pytest.raises(ValueError, match=r"a strict run leaves no image out"):
            list_images(root)
    (root / "a.mp4").write_bytes(b"a video")
    with pytest.raises(ValueError, match=r"1 \.mp4"):
        align_photos(root, tmp_path / "aligned", strict=True)
    assert not (tmp_path / "aligned").exists()


def test_people_a_level_too_deep_are_told_which_folder_to_name(tmp_path: Path) -> None:
    people = synthetic.write_folder(tmp_path / "all" / "train", 2, 2)
    for list_people in (data.scan_folder, scan, random_pairs):
        with pytest.raises(ValueError, match=re.escape(f"are those in {people}, name that folder")):
            list_people(tmp_path / "all")


def test_a_face_of_another_shape_gets_or_loses_the_columns_between_the_templates(
    monkeypatch, caplog
):
    """A face of 112x112 is that of 112x96 with 8 columns more at each side."""
    monkeypatch.setattr("tf_sphereface.data.decoding._SAID", set())
    wide = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    narrow = wide[:, 8:104]
    np.testing.assert_array_equal(resize(wide, (112, 96)), narrow)
    np.testing.assert_array_equal(resize(wide, (56, 48)), resize(narrow, (56, 48)))
    padded = np.pad(narrow, ((0, 0), (8, 8), (0, 0)))
    np.testing.assert_array_equal(resize(narrow, (112, 112)), padded)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3  # 56x48 of 112x96 is of its shape
    assert "one of 112x112, are cut by 8 columns at each side for 112x96" in said[0]
    assert "one of 112x96, are padded by 8 black columns at each side for 112x112" in said[2]


def test_a_face_of_no_template_s_shape_that_is_squeezed_is_said(monkeypatch, caplog):
    monkeypatch.setattr("tf_sphereface.data.decoding._SAID", set())
    for size in ((90, 112), (80, 112)):
        assert resize(np.zeros((*size, 3), np.uint8), (112, 96)).shape == (112, 96, 3)
    (record,) = caplog.records  # once
    assert "such as one of 90x112, are squeezed or stretched into 112x96" in record.getMessage()
