"""Listing of image files: one rule and one table of suffixes for every command."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tf_sphereface.alignment.formats import begins_as_image
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

_LISTS = (
    *(".txt", ".tsv", ".csv", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".log", ".yaml"),
    *(".yml", ".ini", ".cfg", ".db", ".pts", ".xmp", ".aae", ".url", ".lnk", ".py", ".sh"),
)
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
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "__macosx"),
    *("lost+found", "lost.dir", "$recycle.bin", "recycler", "system volume information"),
    *(".ds_store", ".thumbnails", ".thumbs", ".picasaoriginals", ".trash", ".trashes"),
    *(".spotlight-v100", ".fseventsd", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
LOOSE, DEEP, LINK, BROKEN, CLOSED = "loose", "deep", "link", "broken link", "closed"
SYSTEM, HIDDEN, COPY, NO_SUFFIX = "system", "hidden", "copy", "no suffix"
_LOST = (LOOSE, DEEP, BROKEN, CLOSED)
_SORTS = {
    LOOSE: "loose, beside the people's folders: an image must lie in the folder of its person",
    DEEP: "a level too deep: an image must lie in its person's folder itself, not in one below",
    LINK: "links to a folder that is listed already, or back up: each folder is taken once",
    BROKEN: "links that lead nowhere",
    CLOSED: "folders that may not be read",
    SYSTEM: "thumbnails, trash and files of the operating system",
    COPY: "unfinished downloads and old copies",
}


class PassedOver:
    """What a listing has left out: how many files of each suffix, and of each other sort.

    Attributes:
        counts: suffix, or `"loose"`, `"deep"`, `"link"`, `"broken link"`, `"closed"`, `"system"`,
            `"hidden"`, `"copy"` or `"no suffix"` -> how many.

    Example:

    >>> passed_over = PassedOver()
    >>> passed_over.add(".heic", "A/1.heic")
    >>> passed_over.lost, passed_over.counts
    (1, {'.heic': 1})
    >>> print(passed_over.summary())
    passed over:
      1 .heic, such as A/1.heic: HEIC is not read here; convert it to JPEG or PNG first
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, sort: str, path: str) -> None:
        """Count a file or folder; the first of a sort is its example."""
        self.counts[sort] = self.counts.get(sort, 0) + 1
        self._examples.setdefault(sort, path)

    @property
    def lost(self) -> int:
        """How many images and videos are left out, or folders that may hold some."""
        suffixes = (*UNREAD_SUFFIXES, *VIDEO_SUFFIXES, *_LOST)
        return sum(count for sort, count in self.counts.items() if sort in suffixes)

    def summary(self) -> str:
        """Return a line for each sort, but lists and hidden files; empty where there is none."""
        lines = [
            f"{count:,} {self._describe(sort)}"
            for sort, count in sorted(self.counts.items())
            if sort != HIDDEN and sort not in _LISTS
        ]
        return "\n  ".join(["passed over:", *lines]) if lines else ""

    def warn(self) -> None:
        """Warn where images are left out: for callers that show no summary."""
        if self.lost:
            warnings.warn(self.summary(), stacklevel=3)

    def refuse(self, folder: object) -> None:
        """Raise ValueError where images are left out: for `strict` callers."""
        if self.lost:
            raise ValueError(f"{folder}: a strict run leaves no image out. {self.summary()}")

    def _describe(self, sort: str) -> str:
        example = f"such as {self._examples[sort]}"
        if sort in _SORTS:
            what, _, why = _SORTS[sort].partition(": ")
            return f"{what}, {example}" + (f": {why}" if why else "")
        why = advice(sort)
        return f"{sort}, {example}" + (f": {why}" if why else "")


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


def is_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is listed as an image that can be read; see `find_images`."""
    return _sort_of(os.path.basename(path), os.fspath(path)) == "image"


def find_images(
    root: str | os.PathLike[str],
    *,
    skip: Iterable[str | os.PathLike[str]] = (),
    passed_over: PassedOver | None = None,
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
    """
    given = PassedOver() if passed_over is None else passed_over
    images: list[str] = []
    for inside, contents in walk(root, given, skip=skip):
        images += [inside + entry.name for entry in contents.images]
        contents.count_others(given)
    if passed_over is None:
        given.warn()
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
        _count_deep(contents, passed_over, {real}, real)
    return contents.images


def people_in(
    root: str | os.PathLike[str], passed_over: PassedOver, exclude: Collection[str] = ()
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each person's folder in `root` by name, with its images; folders without are none.

    Folders whose names are in `exclude` are left out.
    """
    contents = _look(os.fspath(root), passed_over)
    for entry in (*contents.images, *contents.unread, *contents.videos):
        passed_over.add(LOOSE, entry.path)
    real = os.path.realpath(root)
    seen: set[str] = set()
    for entry in contents.folders:
        if entry.name in exclude:
            continue
        if _is_link(entry) and not _is_elsewhere(entry.path, real, seen):
            passed_over.add(LINK, entry.path)
            continue
        person = _look(entry.path, passed_over)
        person.count_others(passed_over)
        _count_deep(person, passed_over, seen, real)
        if person.images:
            yield entry.name, person.images


@dataclass
class Contents:
    """The entries of one folder, each sort by name."""

    images: list[os.DirEntry[str]] = field(default_factory=list)
    unread: list[os.DirEntry[str]] = field(default_factory=list)
    videos: list[os.DirEntry[str]] = field(default_factory=list)
    folders: list[os.DirEntry[str]] = field(default_factory=list)

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
    folders, links = [("", os.fspath(root), real)], []
    while folders or links:
        if not folders:
            inside, path, _ = links.pop(0)
            if not _is_elsewhere(path, top, seen):
                passed_over.add(LINK, path)
                continue
            folders.append((inside, path, os.path.realpath(path)))
        inside, path, real = folders.pop()
        contents = _look(path, passed_over)
        yield inside, contents
        for entry in contents.folders:
            below = f"{inside}{entry.name}/"
            child = os.path.join(real, entry.name)
            if _is_link(entry):
                links.append((below, entry.path, child))
            elif child not in seen:
                seen.add(child)
                folders.append((below, entry.path, child))


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


def _count_deep(contents: Contents, passed_over: PassedOver, seen: set[str], top: str) -> None:
    """Count the images in the folders below a person's."""
    for folder in contents.folders:
        if _is_link(folder) and not _is_elsewhere(folder.path, top, seen):
            passed_over.add(LINK, folder.path)
            continue
        for _, below in walk(folder.path, passed_over, seen=seen, top=top):
            for entry in (*below.images, *below.unread):
                passed_over.add(DEEP, entry.path)


def _look(path: str, passed_over: PassedOver) -> Contents:
    """Sort the entries of one folder, and count those that are neither images nor folders."""
    contents = Contents()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                _take(entry, contents, passed_over)
    except PermissionError:
        passed_over.add(CLOSED, path)
    for entries_of_a_sort in vars(contents).values():
        entries_of_a_sort.sort(key=lambda entry: entry.name)
    return contents


def _take(entry: os.DirEntry[str], contents: Contents, passed_over: PassedOver) -> None:
    name = entry.name
    if name.startswith("._") or name.lower() in _SYSTEM:
        passed_over.add(SYSTEM, entry.path)
    elif name[0] == ".":
        passed_over.add(HIDDEN, entry.path)
    elif name.lower().endswith(IMAGE_SUFFIXES) and _is(entry.is_file):
        contents.images.append(entry)
    elif _is(entry.is_dir):
        contents.folders.append(entry)
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
    if suffix in _LISTS:
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
