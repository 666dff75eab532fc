"""Image files: reading, listing and writing, with one table of suffixes for every command."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.files import atomic_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of image files, for training, evaluation, packing and calibration alike."""

PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, ".gif", ".heic", ".heif")  # HEIC is refused with advice

MAX_PIXELS = 178_956_970  # 512 MB of RGB: Pillow's limit against files that unpack to enormous ones
MAX_BYTES = 1 << 30
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypheim", b"ftyphevc")


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
    """
    suffix = Path(path).suffix
    options = [] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    encoded = cv2.imencode(suffix, cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)[1]
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return an image file as uint8 RGB (height, width, 3), as every command and pipeline reads it.

    Gray images get three equal channels, transparency is dropped, 16 bits become 8, and a camera's
    orientation mark is obeyed.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file. Any Unicode name, on Windows too.

    Raises:
        ValueError: the file is empty, truncated, HEIC or no image; the message names it.
        OSError: the file cannot be read.
    """
    return decode_image(Path(path).read_bytes(), os.fspath(path))


def decode_image(data: bytes, name: str = "") -> NDArray[np.uint8]:
    """Return an encoded image as uint8 RGB (height, width, 3), as `read_image` does a file.

    A truncated JPEG is an error: OpenCV would fill the rest with gray.

    Args:
        data: the content of a JPEG, PNG, WebP, BMP or TIFF file.
        name: for the error message; without it the message is the reason alone.

    Raises:
        ValueError: it is empty, truncated, HEIC or no image.
    """
    image = None
    if (
        data
        and data[4:12] not in _HEIC
        and (data[:2] != _JPEG or data[-2:] == _JPEG_END or _is_whole_jpeg(data))
    ):
        with contextlib.suppress(cv2.error):  # such as one of too many pixels
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{name}: {_reason(data)}" if name else _reason(data))
    return np.asarray(image, np.uint8)


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read one photograph as `read_image` does, or refuse it with a ValueError before decoding.

    Animations, several pages, and files of more than 178 megapixels or 1 GB are refused. Without
    Pillow (in the extra `align`) only the size of the file is checked. CMYK is mixed to RGB.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: too large for a photograph ({size / 1e9:.1f} GB, at most 1 GB)")
    data = path.read_bytes()
    _refuse_by_header(data, path)
    return decode_image(data, os.fspath(path))


def images_in(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Return the images in one folder, not those in its subfolders or hidden ones, by name."""
    with os.scandir(folder) as entries:
        images = [e for e in entries if _is_listed(e.name, IMAGE_SUFFIXES) and e.is_file()]
    return sorted(images, key=lambda entry: entry.name)


def find_images(
    root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, *, skip: Iterable[Path] = ()
) -> list[str]:
    """Return the images in a folder and all its subfolders, sorted, as POSIX paths relative to it.

    Args:
        root: the folder. Links to folders are followed.
        suffixes: of the names, in small letters.
        skip: folders that are left out. Hidden files and folders always are.
    """
    left_out = {folder.resolve() for folder in skip}
    images = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and (not left_out or (Path(folder) / name).resolve() not in left_out)
        ]
        inside = Path(folder).relative_to(root)
        images += [(inside / name).as_posix() for name in files if _is_listed(name, suffixes)]
    return sorted(images)


def _is_listed(name: str, suffixes: tuple[str, ...]) -> bool:
    return name[0] != "." and name.lower().endswith(suffixes)


def _refuse_by_header(data: bytes, path: Path) -> None:
    """Raise ValueError for what cannot be used as one photograph, if Pillow is installed."""
    try:
        from PIL import Image
    except ImportError:
        return
    try:
        with Image.open(io.BytesIO(data)) as header:
            kind, size, frames = header.format, header.size, getattr(header, "n_frames", 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: too many pixels for a photograph (at most {MAX_PIXELS / 1e6:.0f} million)"
        ) from error
    except Exception as error:  # Pillow's readers raise all sorts of things on broken files
        raise ValueError(f"{path}: {_reason(data)}") from error
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{path}: {size[0]}x{size[1]} is too many pixels for a photograph "
            f"(at most {MAX_PIXELS / 1e6:.0f} million)"
        )
    if frames > 1 and kind != "MPO":  # a camera's second picture in a JPEG is no animation
        raise ValueError(
            f"{path}: an animation or several pages ({frames} images in one {kind} file); "
            "save the one that is meant"
        )


def _reason(data: bytes) -> str:
    """Say why bytes cannot be decoded."""
    if not data:
        return "empty file"
    if data[4:12] in _HEIC:
        return "HEIC is not read here; convert it to JPEG or PNG first"
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
