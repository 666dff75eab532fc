"""Suffixes of image files, of those that nothing here reads, and of videos."""

from __future__ import annotations

import os
import re

from tf_sphereface.alignment.videos import VIDEO_SUFFIXES

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".pgm", ".ppm", ".pbm", ".pnm"),
)
"""Suffixes of image files, for alignment, training, evaluation, packing and calibration alike."""

_HEIC = (".heic", ".heif", ".heics", ".heifs", ".hif")
_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
    *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2"),
    *(".srf", ".srw", ".x3f"),
)
UNREAD_SUFFIXES = (*_HEIC, *_RAW, ".jxl", ".jxr", ".wdp", ".psd", ".psb", ".tga", ".xcf", ".pcx")
"""Suffixes of images that are counted and named, because nothing here reads them."""

LIST_SUFFIXES = (
    *(".txt", ".tsv", ".csv", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".log", ".yaml"),
    *(".yml", ".ini", ".cfg", ".db", ".pts", ".xmp", ".aae", ".url", ".lnk", ".py", ".sh"),
)


def advice(suffix: str) -> str:
    """Say what to do about files of a suffix that are no images here; empty where nothing is."""
    if suffix in _HEIC:
        return "HEIC is not read here; convert it to JPEG or PNG first"
    if suffix in _RAW:
        return "a camera's raw file is not read here; export it as JPEG or PNG first"
    if suffix in UNREAD_SUFFIXES:
        return f"{suffix} is not read here; convert it to JPEG or PNG first"
    if suffix in VIDEO_SUFFIXES:
        return "a video; tf_sphereface-align --every N takes its frames"
    return ""


def suffix_of(name: str) -> str:
    """Return what follows a name's last dot, with the dot and in small letters.

    Empty where that is no suffix, as in `Tom.0001`.

    Example:

    >>> suffix_of("a.b.JPG"), suffix_of("Tom.0001"), suffix_of("Tom")
    ('.jpg', '', '')
    """
    suffix = os.path.splitext(name)[1].lower()
    known = suffix in IMAGE_SUFFIXES or suffix in UNREAD_SUFFIXES or suffix in VIDEO_SUFFIXES
    return suffix if known or re.fullmatch(r"\.[a-z][a-z0-9]{0,9}", suffix) else ""


def without_suffix(name: str) -> str:
    """Return a path without the suffix of an image, and without `./` before it.

    Example:

    >>> without_suffix("./A/A_0001.JPG"), without_suffix("A/Tom.0001")
    ('A/A_0001', 'A/Tom.0001')
    """
    name = name[2:] if name.startswith("./") else name
    return name[: -len(suffix)] if (suffix := suffix_of(name)) in IMAGE_SUFFIXES else name
