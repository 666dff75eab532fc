"""Listing of image files: one rule and one table of suffixes for every command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tf_sphereface.alignment.formats import begins_as_image
from tf_sphereface.alignment.passed_over import (
    BROKEN,
    CLOSED,
    COPY,
    DEEP,
    HIDDEN,
    LINK,
    LOOSE,
    NO_SUFFIX,
    SYSTEM,
    PassedOver,
)
from tf_sphereface.alignment.suffixes import (
    IMAGE_SUFFIXES,
    LIST_SUFFIXES,
    UNREAD_SUFFIXES,
    suffix_of,
    without_suffix,
)
from tf_sphereface.alignment.videos import VIDEO_SUFFIXES

_COPIES = (
    ".bak",
    ".old",
    ".orig",
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".crdownload",
    ".download",
)
_SYSTEM = {
    *("@eadir", "@sharebin", "zbthumbnail.info"),
    *("@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "__macosx"),
    *("lost+found", "lost.dir", "$recycle.bin", "recycler", "system volume information"),
    *(".ds_store", ".thumbnails", ".thumbs", ".picasaoriginals", ".trash", ".trashes"),
    *(".spotlight-v100", ".fseventsd", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
_MADE_BY_SYSTEMS = re.compile(r"\._|SYNO(FILE|PHOTO)_THUMB|@Syno|.*@Syno(Resource|EAStream)$")


def is_of_a_system(name: str) -> bool:
    """Tell a file's or a folder's name that systems give: thumbnails, trash, what was found."""
    return _MADE_BY_SYSTEMS.match(name) is not None or name.lower() in _SYSTEM


def find_image(path: Path) -> Path:
    """Return a file that is there under this name, or alone under another image's suffix.

    Where there is none, or several, the path comes back as it is.
    """
    if path.is_file():
        return path
    stem = without_suffix(path.name)
    try:
        alike = [e.name for e in images_in(path.parent) if without_suffix(e.name) == stem]
    except OSError:
        alike = []
    return path.with_name(alike[0]) if len(alike) == 1 else path


def is_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is listed as an image that can be read; see `find_images`."""
    return _sort_of(os.path.basename(path), os.fspath(path)) == "image"


def find_images(
    root: str | os.PathLike[str],
    *,
    skip: Iterable[str | os.PathLike[str]] = (),
    passed_over: PassedOver | None = None,
    strict: bool = False,
) -> list[str]:
    """Return the images in a folder and all its subfolders, sorted, as POSIX paths relative to it.

    An image is a file with one of `IMAGE_SUFFIXES`, in any case; of other and missing suffixes the
    first bytes decide. Hidden files, thumbnails and trash of the system (`@eaDir`) are passed over.
    Links to folders are followed, each folder is listed once, and a link that leads back up is
    passed over.

    Args:
        root: the folder.
        skip: folders that are left out.
        passed_over: where it is counted what is left out; without it, images that are left out are
            a warning.
        strict: raise ValueError where images are left out.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> folder = synthetic.write_folder("photos", 2, 1)
    >>> find_images(folder, skip=[folder / "Person_000001"])
    ['Person_000000/Person_000000_0001.jpg']
    """
    given = PassedOver() if passed_over is None else passed_over
    images: list[str] = []
    for inside, contents in walk(root, given, skip=skip):
        images += [inside + entry.name for entry in contents.images]
        contents.count_others(given)
    if passed_over is None or strict:
        given.settle(root, strict)
    return sorted(images)


def find_photos(
    root: Path, passed_over: PassedOver, *, skip: Iterable[Path] = ()
) -> tuple[list[str], list[str]]:
    """Return the images, those that nothing here reads among them, and the videos of a folder.

    Sorted POSIX paths relative to `root`, as of `find_images`.
    """
    photos: list[str] = []
    videos: list[str] = []
    for inside, contents in walk(root, passed_over, skip=skip):
        photos += [inside + entry.name for entry in (*contents.images, *contents.unread)]
        videos += [inside + entry.name for entry in contents.videos]
    return sorted(photos), sorted(videos)


def images_in(
    folder: str | os.PathLike[str], passed_over: PassedOver | None = None
) -> list[os.DirEntry[str]]:
    """Return the images in one folder by name; those in its subfolders are counted as too deep.

    `passed_over` is that of `find_images`; without it nothing is counted, nor said.
    """
    contents = _look(os.fspath(folder), passed_over or PassedOver())
    if passed_over is not None:
        contents.count_others(passed_over)
        real = os.path.realpath(folder)
        _count_deep(os.fspath(folder), contents, passed_over, {real}, real)
    return contents.images


def people_in(
    root: str | os.PathLike[str], passed_over: PassedOver, exclude: Collection[str] = ()
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each person's folder in `root` by name, with its images; folders without are none.

    Folders whose names are in `exclude` are left out. ValueError: there is no such folder, with
    why that may be.
    """
    empty = True
    top, seen = os.path.realpath(root), set[str]()
    contents = _look(os.fspath(root), passed_over)
    for entry in (*contents.images, *contents.unread, *contents.videos):
        passed_over.add(LOOSE, entry.path)
    links = set(contents.links)
    for name in sorted((*contents.folders, *links)):
        path = os.path.join(root, name)
        if name in exclude:
            continue
        if name in links and not _is_elsewhere(path, top, seen):
            passed_over.add(LINK, path)
            continue
        person = _look(path, passed_over)
        person.count_others(passed_over)
        _count_deep(path, person, passed_over, seen, top)
        if person.images:
            empty = False
            yield name, person.images
    if empty:
        told = f"; {passed_over.summary()}" if passed_over.summary() else ""
        left = f", and {len(exclude):,} people that are left out" if exclude else ""
        raise ValueError(
            f"{os.fspath(root)} must hold one folder per identity, with images in it. "
            f"Received: no such folder in it{left}{told}"
        )


@dataclass
class Contents:
    """The entries of one folder, each sort by name; of its folders the names alone."""

    images: list[os.DirEntry[str]] = field(default_factory=list)
    unread: list[os.DirEntry[str]] = field(default_factory=list)
    videos: list[os.DirEntry[str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def count_others(self, passed_over: PassedOver) -> None:
        """Count the images that nothing here reads, and the videos, by suffix."""
        for entry in (*self.unread, *self.videos):
            passed_over.add(suffix_of(entry.name) or NO_SUFFIX, entry.path)


def walk(
    root: str | os.PathLike[str],
    passed_over: PassedOver,
    *,
    skip: Iterable[str | os.PathLike[str]] = (),
    seen: set[str] | None = None,
    top: str | None = None,
) -> Iterator[tuple[str, Contents]]:
    """Yield `root` and each folder below once: its path relative to `root`, such as `a/b/`.

    A folder goes under its own path rather than under a link to it. `seen` holds the real paths of
    folders that are listed already; links to `top` (`root` by default) or above are passed over.
    """
    seen = set() if seen is None else seen
    seen.update(os.path.realpath(folder) for folder in skip)
    real = os.path.realpath(root)
    top = real if top is None else top
    seen.add(real)
    folders = [("", os.fspath(root), real)]
    links: list[tuple[str, str]] = []
    while folders or links:
        if not folders:
            inside, path = links.pop(0)
            if not _is_elsewhere(path, top, seen):
                passed_over.add(LINK, path)
                continue
            folders.append((inside, path, os.path.realpath(path)))
        inside, path, real = folders.pop()
        contents = _look(path, passed_over)
        yield inside, contents
        for name in contents.links:
            links.append((f"{inside}{name}/", os.path.join(path, name)))
        for name in contents.folders:
            child = os.path.join(real, name)
            if child not in seen:
                seen.add(child)
                folders.append((f"{inside}{name}/", os.path.join(path, name), child))


def _is_elsewhere(link: str, top: str, seen: set[str]) -> bool:
    """Tell whether a link leads to a folder that is listed nowhere else, and note that folder.

    It is not where the folder was seen before, lies in `top`, is `top`, or holds it.
    """
    real = os.path.realpath(link)
    holds = top == real or top.startswith(real.rstrip(os.sep) + os.sep)
    if real in seen or holds or os.path.dirname(real) == top:
        return False
    seen.add(real)
    return True


def _count_deep(
    path: str, contents: Contents, passed_over: PassedOver, seen: set[str], top: str
) -> None:
    """Count the images in the folders below a person's, whose path and contents are given."""
    for name in (*contents.folders, *contents.links):
        folder = os.path.join(path, name)
        if name in contents.links and not _is_elsewhere(folder, top, seen):
            passed_over.add(LINK, folder)
            continue
        for _, below in walk(folder, passed_over, seen=seen, top=top):
            for entry in (*below.images, *below.unread):
                passed_over.add(DEEP, entry.path)


def _look(path: str, passed_over: PassedOver) -> Contents:
    """Sort the entries of one folder, and count those that are neither images nor folders."""
    contents = Contents()
    try:
        with os.scandir(path) as found:
            for entry in found:
                _take(entry, contents, passed_over)
    except PermissionError:
        passed_over.add(CLOSED, path)
    for entries in (contents.images, contents.unread, contents.videos):
        entries.sort(key=lambda entry: entry.name)
    contents.folders.sort()
    contents.links.sort()
    return contents


def _take(entry: os.DirEntry[str], contents: Contents, passed_over: PassedOver) -> None:
    name = entry.name
    if is_of_a_system(name):
        passed_over.add(SYSTEM, entry.path)
    elif name[0] == ".":
        passed_over.add(HIDDEN, entry.path)
    elif name.lower().endswith(IMAGE_SUFFIXES) and _is(entry.is_file):
        contents.images.append(entry)
    elif _is(entry.is_dir):
        (contents.links if _is_link(entry) else contents.folders).append(name)
    elif not _is(entry.is_file):
        if entry.is_symlink():
            passed_over.add(BROKEN, entry.path)
    else:
        sort = _sort_of(name, entry.path)
        listed = {"image": contents.images, "unread": contents.unread, "video": contents.videos}
        if sort in listed:
            listed[sort].append(entry)
        else:
            passed_over.add(sort, entry.path)


def _sort_of(name: str, path: str) -> str:
    """Return "image", "unread" or "video", or what a file is counted as."""
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in UNREAD_SUFFIXES:
        return "unread"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in _COPIES or name.endswith("~"):
        return COPY
    if suffix in LIST_SUFFIXES:
        return suffix
    if suffix == ".thm":  # a camera's thumbnail, beside the image or video itself
        return SYSTEM
    try:
        with open(path, "rb") as handle:
            begin = handle.read(64)
    except OSError:
        begin = b""
    return "image" if begins_as_image(begin) else suffix or NO_SUFFIX


def _is(question: Callable[[], bool]) -> bool:
    """Ask an entry whether it is a file or a folder; a link that leads to itself is neither."""
    try:
        return question()
    except OSError:
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a link, or what Windows calls a junction."""
    junction = getattr(entry, "is_junction", None)  # from Python 3.12 on
    return entry.is_symlink() or (junction is not None and junction())
