"""Image files: the one reader of every command and pipeline, and the writer of faces."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.formats import avif_turns, count_frames, is_avif, is_heic
from tf_sphereface.utils.files import atomic_path

MAX_PIXELS = 178_956_970  # 512 MB of RGB: Pillow's limit against files that unpack to enormous ones
MAX_BYTES = 1 << 30
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def check_rgb(image: np.ndarray) -> NDArray[np.uint8]:
    """Return a uint8 RGB image (height, width, 3), or raise `ValueError`."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            "Argument `image` must be uint8 RGB, (height, width, 3). "
            f"Received: {image.dtype} {image.shape}"
        )
    return image


def write_face(path: str | os.PathLike[str], face: np.ndarray, quality: int = 95) -> None:
    """Write a face as an image file, whole or not at all.

    Args:
        path: the file; its suffix chooses the format. Folders are made.
        face: uint8 RGB, (height, width, 3).
        quality: of JPEG, from 1 to 100.

    Raises:
        OSError: the file cannot be written.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "ada", "1.png")
    >>> write_face(path, np.zeros((112, 96, 3), np.uint8))
    >>> read_image(path).shape
    (112, 96, 3)
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_face(face, Path(path).suffix, quality))


def encode_face(face: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """Return the content of a face's image file; face and quality are those of `write_face`."""
    options = [] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    content = cv2.imencode(suffix, cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)[1]
    return bytes(content.tobytes())


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return an image file as uint8 RGB (height, width, 3), as every command and pipeline reads it.

    Gray images get three equal channels, transparency is dropped (a TIFF's darkens the colours, as
    OpenCV reads it), 16 bits become 8, and a camera's orientation mark is obeyed. The content
    decides what a file is, not its suffix.

    Args:
        path: a JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF, JPEG 2000 or PNM file of any name.

    Raises:
        ValueError: the file is empty, truncated, an animation, several pages, HEIC or no image; the
            message names it.
        OSError: the file cannot be read.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> folder = synthetic.write_folder(tempfile.mkdtemp(), 1, 1)
    >>> read_image(folder / "Person_000000" / "Person_000000_0001.jpg").shape
    (112, 96, 3)
    """
    return decode_image(Path(path).read_bytes(), os.fspath(path))


def decode_image(data: bytes, name: str = "") -> NDArray[np.uint8]:
    """Return an encoded image as uint8 RGB (height, width, 3), as `read_image` does a file.

    A truncated JPEG is an error: OpenCV would fill the rest with gray.

    Args:
        data: the content of an image file.
        name: for the error message; without it the message is the reason alone.

    Raises:
        ValueError: it is empty, truncated, an animation, several pages, HEIC or no image.

    Example:

    >>> encoded = cv2.imencode(".png", np.zeros((4, 3, 3), np.uint8))[1].tobytes()
    >>> decode_image(encoded).shape
    (4, 3, 3)
    """
    image, frames = None, count_frames(data)
    if (
        data
        and frames == 1
        and not is_heic(data)
        and (data[:2] != _JPEG or data[-2:] == _JPEG_END or _is_whole_jpeg(data))
    ):
        with contextlib.suppress(cv2.error):  # such as one of too many pixels
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            image = None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if image is None:
        reason = _reason(data, frames)
        raise ValueError(f"{name}: {reason}" if name else reason)
    if is_avif(data):  # of all formats the one that OpenCV does not turn
        turns, axis = avif_turns(data)
        image = np.rot90(image, turns)
        image = np.ascontiguousarray(image if axis is None else np.flip(image, axis))
    return np.asarray(image, np.uint8)


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read one photograph as `read_image` does, or refuse it with a ValueError before decoding.

    Files of more than 178 megapixels or 1 GB are refused; without Pillow (in the extra `align`)
    only the size of the file is checked.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: too large for a photograph ({size / 1e9:.1f} GB, at most 1 GB)")
    data = path.read_bytes()
    _refuse_by_header(data, path)
    return decode_image(data, os.fspath(path))


def _refuse_by_header(data: bytes, path: Path) -> None:
    """Raise ValueError for an image of too many pixels, if Pillow is installed."""
    try:
        from PIL import Image
    except ImportError:
        return
    try:
        with Image.open(io.BytesIO(data)) as header:
            size = header.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: too many pixels for a photograph (at most {MAX_PIXELS / 1e6:.0f} million)"
        ) from error
    except Exception:  # Pillow's readers raise all sorts of things; OpenCV may read it
        return
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{path}: {size[0]}x{size[1]} is too many pixels for a photograph "
            f"(at most {MAX_PIXELS / 1e6:.0f} million)"
        )


def _reason(data: bytes, frames: int) -> str:
    """Say why bytes cannot be decoded."""
    if not data:
        return "empty file"
    if frames > 1:
        count = "" if is_avif(data) else f" ({frames} images in one file)"
        return f"an animation or several pages{count}; save the one that is meant"
    if is_heic(data):
        return "HEIC is not read here; convert it to JPEG or PNG first"
    if is_avif(data):
        return "truncated, or an AVIF that this OpenCV does not read; convert it to JPEG or PNG"
    return "truncated or corrupt JPEG" if data[:2] == _JPEG else "truncated or not an image"


def _is_whole_jpeg(data: bytes) -> bool:
    """Tell whether an end marker follows the picture's data, not only a thumbnail's before it."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:  # the picture's data begins
            return data.find(_JPEG_END, place) >= 0
        filler = marker in (0xFF, 0x01)
        place += 1 if filler else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
