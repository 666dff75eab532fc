"""Batches come out of arrays and encoded files as the one reader of images has them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from tf_sphereface import data
from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data import fetching
from tf_sphereface.data.fetching import fetch_array, flip, jpeg_size, plain_jpeg_header

SIZE = (56, 48)


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return data.synthetic.faces([seed], [0], size=SIZE)[0]


def jpeg(image: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).convert(mode).save(content, "JPEG", **options)
    return content.getvalue()


def turned(image: NDArray[np.uint8]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    return jpeg(image, exif=exif)


PLAIN = {
    "plain": jpeg(picture()),
    "gray": jpeg(picture(), "L"),
    "4:4:4": jpeg(picture(), subsampling=0),
    "with a comment": jpeg(picture(), comment=b"\xff\xda of old"),
}
OTHERS = {
    "turned": turned(picture()),
    "progressive": jpeg(picture(), progressive=True),
    "CMYK": jpeg(picture(), "CMYK"),
    "restarts": cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    "profile": jpeg(picture(), icc_profile=b"profile"),
    "PNG": cv2.imencode(".png", picture())[1].tobytes(),
}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(fetching, "_decoded", {})


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_only_plain_jpegs_are_known(name):
    # A comment may hold what looks like the scan's mark: then it is not known, and that is all.
    header = plain_jpeg_header({**PLAIN, **OTHERS}[name])
    assert (header is not None) == (name in PLAIN and name != "with a comment")
    assert header is None or jpeg_size(header) == SIZE


def test_damaged_plain_jpegs_have_opencvs_pixels():
    rng, seen = np.random.default_rng(0), 0
    for seed in range(120):
        whole = jpeg(picture(seed % 5), quality=int(rng.integers(30, 100)))
        content = bytearray(whole)
        kind, place = seed % 4, int(rng.integers(2, len(content) - 250))
        if kind == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[place : place + 200] = bytes(200)
        elif kind == 2:
            del content[place : place + 200]
        else:
            content[place:place] = rng.integers(0, 256, 20, np.uint8).tobytes()
        header = plain_jpeg_header(bytes(content))
        if header is None or jpeg_size(header) != SIZE or header != plain_jpeg_header(whole):
            continue  # a damaged header is OpenCV's business
        seen += 1
        decoded = tf.io.decode_jpeg(
            bytes(content),
            channels=3,
            dct_method="INTEGER_ACCURATE",
            try_recover_truncated=True,
            acceptable_fraction=0.0,
        )
        np.testing.assert_array_equal(decoded, decode_image(bytes(content)))
    assert seen > 40


@pytest.mark.parametrize("augment", ["none", "mirror"])
def test_a_folder_of_all_sorts_streams_what_the_reader_reads(tmp_path: Path, augment: str):
    contents = [*PLAIN.values(), *OTHERS.values()]
    for number, content in enumerate(contents):
        path = tmp_path / f"person{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    options = {"image_size": SIZE, "batch_size": len(contents), "shuffle": False, "dtype": "uint8"}
    streams = (
        data.face_dataset(tmp_path, cache=cache, augment=augment, **options)
        for cache in ("none", "memory")
    )
    (streamed, labels), (held, same) = (list(stream.repeat(2))[-1] for stream in streams)
    np.testing.assert_array_equal(streamed, held)
    np.testing.assert_array_equal(labels, same)
    expected = [data.read_image(path) for path in sorted(tmp_path.glob("*/*"))]
    if augment == "none":
        np.testing.assert_array_equal(streamed, expected)
    else:
        flipped = [not (a == b).all() for a, b in zip(streamed.numpy(), expected, strict=True)]
        assert 0 < sum(flipped) < len(contents)
        np.testing.assert_array_equal(streamed, flip(np.array(expected), np.array(flipped)))


def test_an_array_in_another_order_is_read_in_place():
    faces = np.stack([picture(seed) for seed in range(6)])
    positions = tf.constant([4, 0, 4], tf.int64)
    mirror = tf.constant([True, False, False])
    for images in (faces, faces[..., ::-1], faces[::-1], np.asfortranarray(faces)):
        batch = fetch_array(images)(positions, mirror).numpy()
        expected = images[[4, 0, 4]]
        np.testing.assert_array_equal(batch[0], expected[0][:, ::-1])
        np.testing.assert_array_equal(batch[1:], expected[1:])


@pytest.mark.parametrize("kind", ["folder", "pack", "rec"])
def test_plain_faces_are_not_decoded_in_python(tmp_path: Path, kind: str, monkeypatch):
    """Python's threads would take turns with its lock, and `fit` would wait for all of them."""
    folder = data.synthetic.write_folder(tmp_path / "faces", 2, 4, size=SIZE)
    source: Any = data.check_folder(folder, image_size=SIZE)
    if kind == "pack":
        source = data.open_pack(data.pack_folder(folder, tmp_path / "packed").path)
    if kind == "rec":
        source = data.open_rec(data.write_rec(folder, tmp_path / "rec").path)
    options = {"image_size": SIZE, "batch_size": 8, "cache": "none", "dtype": "uint8"}
    dataset = data.face_dataset(source, training=False, **options)
    list(dataset)  # the first of a writer are decoded, to see that their tables are good
    for name in ("sources.decode_face", "sources.decode_image", "recordio.reading.decode_image"):
        monkeypatch.setattr(f"tf_sphereface.data.{name}", lambda *_: pytest.fail("in Python"))
    ((images, labels),) = dataset
    files = sorted(folder.glob("*/*"))
    np.testing.assert_array_equal(images, [data.read_image(file) for file in files])
    assert labels.numpy().tolist() == [0] * 4 + [1] * 4


def test_a_damaged_header_is_named_and_good_files_are_quiet(tmp_path: Path, capfd):
    folder = data.synthetic.write_folder(tmp_path, 2, 4, size=SIZE)
    dataset = data.face_dataset(folder, image_size=SIZE, batch_size=8, cache="none", augment="none")
    for _ in range(2):
        list(dataset)
    assert "JPEG" not in capfd.readouterr().err
    victim = sorted(folder.glob("*/*"))[3]
    content = bytearray(victim.read_bytes())
    tables = content.find(b"\xff\xc4")
    content[tables + 5 : tables + 21] = b"\xff" * 16  # more codes than there can be
    victim.write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{victim.name} cannot be decoded"):
        list(dataset)


def test_a_path_through_a_link_and_up_is_the_systems(tmp_path: Path):
    for place, seed in (("disk/faces", 0), ("faces", 9)):
        people = tmp_path / place
        for person in "ab":
            (people / person).mkdir(parents=True)
            (people / person / "1.jpg").write_bytes(jpeg(picture(seed)))
    (tmp_path / "disk" / "v2").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "disk" / "v2")
    folder = tmp_path / "current" / ".." / "faces"
    options = {"image_size": SIZE, "batch_size": 2, "cache": "none", "dtype": "uint8"}
    ((images, _),) = data.face_dataset(folder, training=False, **options)
    expected = data.read_image(tmp_path / "disk" / "faces" / "a" / "1.jpg")
    np.testing.assert_array_equal(images, [expected] * 2)
