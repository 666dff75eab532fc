"""Web pages, pointers and archives that downloads leave in place of a file."""

from __future__ import annotations

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run git lfs pull"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")


def what_it_is(beginning: bytes) -> str | None:
    """Say what a file is that begins with these bytes, 512 or so; None where that is not known.

    Example:

    >>> what_it_is(b"<!DOCTYPE html><html><title>Quota exceeded</title>")
    'a web page, not the file: the download failed. Download it again'
    """
    if not beginning:
        return "empty: the download failed. Download it again"
    for start, what in _BEGINNINGS:
        if beginning.startswith(start):
            return what
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        return "a web page, not the file: the download failed. Download it again"
    if beginning[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    return None
