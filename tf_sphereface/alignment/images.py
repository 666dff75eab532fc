"""Read, list and write image files: one reader for every command."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require


def write_face(path: str | os.PathLike[str], face: np.ndarray, quality: int = 95) -> None:
    """Write a face as an image file, whole or not at all.

    Args:
        path: where to; its suffix chooses the format. Folders are made.
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


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as RGB.

    Gray images get three equal channels, transparency is dropped, 16 bits become 8, and a camera's
    orientation mark is obeyed.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file. Any Unicode name, on Windows too.

    Returns:
        uint8 RGB, (height, width, 3).

    Raises:
        ValueError: the file is empty, truncated or no image; the message names it.
        OSError: the file cannot be read.
    """
    return decode_image(Path(path).read_bytes(), os.fspath(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode an image that is in memory, as `read_image` does a file.

    Args:
        data: the content of a JPEG, PNG, WebP, BMP or TIFF file.
        name: what to call it in an error.

    Returns:
        uint8 RGB, (height, width, 3).

    Raises:
        ValueError: it is empty, truncated or no image; the message names it.
    """
    content = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise ValueError(f"{name}: empty, truncated or not an image ({content.size} bytes)")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif"),  # refused, with what to do
)
MAX_PIXELS = 178_956_970  # 512 MB of RGB: Pillow's limit against files that unpack to enormous ones
MAX_BYTES = 1 << 30


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read one photograph as RGB, whatever is usual among photographs, or refuse it.

    A camera's orientation mark is obeyed. Gray images get three equal channels; of CMYK the print
    colours are mixed to RGB; 16 bits become 8; transparency is dropped. Animations and several
    pages, truncated JPEG files (OpenCV would fill the rest with gray) and files of more than 178
    megapixels are refused, the last two before they are decoded.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF or GIF file.

    Returns:
        uint8 RGB, (height, width, 3).

    Raises:
        ValueError: the file is refused, broken or no image; the message names it.
        OSError: the file cannot be read.
        ImportError: Pillow is missing (the extra `align`).
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: too large for a photograph ({size / 1e9:.1f} GB, at most 1 GB)")
    data = path.read_bytes()
    _inspect(data, path)
    return decode_image(data, os.fspath(path))


def find_photos(
    root: Path, suffixes: Iterable[str] = PHOTO_SUFFIXES, *, skip: Iterable[Path] = ()
) -> list[str]:
    """Return the images in a folder and the folders in it, sorted, as paths relative to it.

    Args:
        root: the folder.
        suffixes: what the names end in, in small letters.
        skip: folders that are left out. Hidden files and folders always are.

    Returns:
        Paths with `/` between their parts, on Windows too.
    """
    known = tuple(suffixes)
    left_out = {folder.resolve() for folder in skip}
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "." and (not left_out or (Path(folder) / name).resolve() not in left_out)
        )
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in files
            if name[0] != "." and name.lower().endswith(known)
        ]
    return sorted(found)


def _inspect(data: bytes, path: Path) -> None:
    """Raise ValueError for what cannot be used as one photograph, by its header."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypheim", b"ftyphevc"):
        raise ValueError(f"{path}: HEIC is not read here; convert it to JPEG or PNG first")
    image = require("PIL.Image", extra="align")
    try:
        with image.open(io.BytesIO(data)) as header:
            kind, size, frames = header.format, header.size, getattr(header, "n_frames", 1)
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: too many pixels for a photograph (at most {MAX_PIXELS / 1e6:.0f} million)"
        ) from error
    except Exception as error:  # Pillow's readers raise all sorts of things on broken files
        raise ValueError(
            f"{path}: empty, truncated or not an image ({len(data):,} bytes)"
        ) from error
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
    if kind in ("JPEG", "MPO") and not _is_whole_jpeg(data):
        raise ValueError(f"{path}: truncated ({len(data):,} bytes, without a JPEG's end)")


def _is_whole_jpeg(data: bytes) -> bool:
    """Tell whether the picture's data is followed by an end marker.

    A thumbnail among the segments before has an end of its own: these are stepped over.
    """
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:  # the picture's data begins
            return data.find(b"\xff\xd9", place) >= 0
        filler = marker in (0xFF, 0x01)
        place += 1 if filler else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
