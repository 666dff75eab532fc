"""Photographs of every kind: read, or refused with their name before they are decoded."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tf_sphereface.alignment.images import read_photo

RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8), (80, 96))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    # Copies: Pillow leaves the settings of one format in the image, and the next trips over them
    if "append_images" in options:
        options["append_images"] = [frame.copy() for frame in options["append_images"]]
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def opencv(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


PLAIN = Image.fromarray(RGB)
BGR16 = RGB[..., ::-1].astype(np.uint16) * 257
FRAMES = [PLAIN.rotate(90), PLAIN.rotate(180)]


@pytest.mark.parametrize(
    ("name", "data", "tolerance"),
    [
        # mean difference of a pixel: JPEG's and the palette's own, and that of mixing inks
        ("plain.jpg", encode(PLAIN, "JPEG", quality=95), 2.0),
        ("plain.png", encode(PLAIN, "PNG"), 0.0),
        ("plain.bmp", encode(PLAIN, "BMP"), 0.0),
        ("plain.tif", encode(PLAIN, "TIFF"), 0.0),
        ("plain.webp", encode(PLAIN, "WEBP", lossless=True), 0.0),
        ("still.gif", encode(PLAIN, "GIF"), 8.0),
        ("cmyk.jpg", encode(PLAIN.convert("CMYK"), "JPEG", quality=95), 3.0),
        ("cmyk.tif", encode(PLAIN.convert("CMYK"), "TIFF"), 3.0),
        ("deep.png", opencv(".png", BGR16), 0.0),
        ("deep.tif", opencv(".tif", BGR16), 0.0),
        ("palette.png", encode(PLAIN.convert("P"), "PNG"), 40.0),
        ("rgba.png", encode(PLAIN.convert("RGBA"), "PNG"), 0.0),
        ("two.jpg", encode(PLAIN, "MPO", quality=95, save_all=True, append_images=FRAMES), 2.0),
    ],
)
def test_kinds_of_photographs(tmp_path, name, data, tolerance):
    (tmp_path / name).write_bytes(data)
    image = read_photo(tmp_path / name)
    assert (image.dtype, image.shape) == (np.uint8, (96, 80, 3))
    assert np.abs(image.astype(int) - RGB).mean() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_gets_three_channels(tmp_path, mode):
    PLAIN.convert(mode).save(tmp_path / "gray.png")
    image = read_photo(tmp_path / "gray.png")
    assert image.shape == (96, 80, 3)
    assert (image == image[..., :1]).all()


def test_deep_gray(tmp_path):
    (tmp_path / "deep.png").write_bytes(opencv(".png", BGR16[..., 0]))
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png")[..., 1], RGB[..., 2])


@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_transparency_is_dropped(tmp_path, suffix):
    """Red stays red: OpenCV swaps the channels of a transparent AVIF that is asked for as RGB."""
    cut_out = PLAIN.convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.tile(np.uint8([0, 255]), (96, 40))))
    cut_out.save(tmp_path / f"cut.{suffix}", quality=95, **{"lossless": True} | {"exact": True})
    found = read_photo(tmp_path / f"cut.{suffix}").astype(int)
    swapped = np.abs(found[..., ::-1] - RGB).mean()
    assert np.abs(found - RGB).mean() < swapped / 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x112] = orientation
    PLAIN.copy().save(tmp_path / f"turned.{suffix}", quality=95, exif=exif)
    expected = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB.transpose(1, 0, 2)[:, ::-1],
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: RGB.transpose(1, 0, 2)[::-1],
    }[orientation]
    found = read_photo(tmp_path / f"turned.{suffix}").astype(int)
    assert np.abs(found - expected).mean() < 3.0  # the encoding's own error


def enormous_png() -> bytes:
    """A small file that would unpack to 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


JPEG = encode(PLAIN, "JPEG", quality=95)
THUMBNAIL = b"\xff\xe1\x00\x08abcd\xff\xd9"  # a segment with an end marker inside


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("moving.gif", encode(PLAIN, "GIF", save_all=True, append_images=FRAMES), "animation"),
        ("moving.png", encode(PLAIN, "PNG", save_all=True, append_images=FRAMES), "animation"),
        ("moving.webp", encode(PLAIN, "WEBP", save_all=True, append_images=FRAMES), "3 images"),
        ("moving.avif", encode(PLAIN, "AVIF", save_all=True, append_images=FRAMES), "animation"),
        ("pages.tif", encode(PLAIN, "TIFF", save_all=True, append_images=FRAMES), "several pages"),
        ("enormous.png", enormous_png(), "too many pixels"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(40), "HEIC is not read"),
        ("cut.jpg", JPEG[:-30], "truncated"),
        ("cut2.jpg", JPEG[:2] + THUMBNAIL + JPEG[2:-30], "truncated"),
        ("cut.png", encode(PLAIN, "PNG")[:200], "truncated or not an image"),
        ("empty.jpg", b"", "empty file"),
        ("page.jpg", b"<html>not found</html>", "not an image"),
    ],
)
def test_refused_by_name(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
        read_photo(tmp_path / name)


def test_whole_jpeg_with_a_thumbnail(tmp_path):
    (tmp_path / "whole.jpg").write_bytes(JPEG[:2] + THUMBNAIL + JPEG[2:] + b"trailing bytes")
    assert read_photo(tmp_path / "whole.jpg").shape == (96, 80, 3)


def test_gigantic_file_is_not_even_read(tmp_path):
    with (tmp_path / "disk.png").open("wb") as handle:
        handle.truncate((1 << 30) + 1)  # a hole: it takes no room
    with pytest.raises(ValueError, match=r"disk\.png: too large"):
        read_photo(tmp_path / "disk.png")
