"""Image files of every encoding: evaluation, training and packing see the same pixels."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.comparing import batches
from tf_sphereface import data
from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES
from tf_sphereface.data import synthetic
from tf_sphereface.eval.folder import scan
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
    settings = {"batch_size": 1, "augment": "none"}
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
