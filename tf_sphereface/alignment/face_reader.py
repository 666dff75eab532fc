"""Faces of a protocol: aligned, at the network's size, and none of them skipped."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tf_sphereface.alignment.align import cut_out
from tf_sphereface.alignment.images import read_image
from tf_sphereface.alignment.landmarks import (
    Landmarks,
    check_places,
    find_odd,
    load_landmarks,
    warn_of_odd,
)
from tf_sphereface.alignment.listing import find_image
from tf_sphereface.alignment.plausibility import is_outside
from tf_sphereface.alignment.suffixes import without_suffix
from tf_sphereface.alignment.template import TEMPLATES
from tf_sphereface.utils.messages import and_more

CHUNK = 256  # faces in memory at a time
SHOWN, SEPARATOR = 10, "\n  "  # files that an error lists
MISSING = "missing"


class FaceReader:
    """Reads one image file as the uint8 RGB face that an embedder takes.

    With landmarks (a landmark file, or name -> (5, 2) points in pixels) the image is aligned.
    Without, it must be aligned already, at the network's size or at its template's; a 112x112 face
    is cut for a 112x96 network. A network whose input is a whole fraction of a template (56x48 of
    112x96) gets the template's crop averaged down. Landmarks for any other input size are a
    ValueError, as are those of which most cannot be faces; single ones are a warning. A file is
    also found under another image's suffix.
    """

    def __init__(self, input_size: tuple[int, int], landmarks: Landmarks | None = None) -> None:
        self.input_size = input_size
        self.template_size = _template_size(input_size)
        self.landmarks: Mapping[str, np.ndarray] | None = None
        self._given: Landmarks | None = None  # until they are compared with the images
        if landmarks is None:
            return
        if self.template_size is None:
            known = ", ".join(f"{height}x{width}" for height, width in TEMPLATES)
            raise ValueError(
                f"landmarks need a network whose input is {known}, or a whole fraction of it. "
                f"Received: an input of {input_size[0]}x{input_size[1]}"
            )
        self._given = landmarks
        self.landmarks = load_landmarks(landmarks)
        warn_of_odd(landmarks, self.landmarks, find_odd(landmarks, self.landmarks))
        self._names = {without_suffix(name): name for name in self.landmarks}

    def __call__(self, path: Path, name: str) -> np.ndarray:
        """Return the face in `path`, whose landmarks are listed under `name`.

        A file that is missing, cannot be read, has no landmarks or another size is a ValueError;
        its message is the reason alone, as in `fit` and `key`.
        """
        path = find_image(path)
        if not path.is_file():
            raise ValueError(MISSING)
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            raise ValueError("cannot be decoded as an image") from error
        points = self._points(name)
        if points is not None and self.template_size is not None:
            if is_outside(points, image.shape):
                raise ValueError("its points lie outside the image")
            image = cut_out(image, points, self.template_size)
        return self.fit(self.cut(image))

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the middle 112x96 of a 112x112 face, for a network that takes those.

        The two templates differ by the 8 columns at each side alone.
        """
        if self.template_size == (112, 96) and image.shape[:2] == (112, 112) != self.input_size:
            return np.ascontiguousarray(image[:, 8:104])
        return image

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Return an aligned face at the network's size, or raise ValueError."""
        size = tuple(image.shape[:2])
        if size == self.input_size:
            return image
        if size == self.template_size:
            height, width = self.input_size
            return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        sizes = sorted({self.input_size, self.template_size or self.input_size})
        wanted = " or ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"{size[0]}x{size[1]} pixels, not {wanted} (height x width)")

    def key(self, path: Path, name: str) -> str:
        """Return a hash, 64 hexadecimal digits, that is equal where `self(path, name)` is equal.

        It covers the file's bytes and how they are aligned.
        """
        try:
            data = find_image(path).read_bytes()
        except OSError as error:
            raise ValueError(MISSING) from error
        points = self._points(name)
        crop = None if points is None else (self.template_size, "antialias")
        how = f"{self.input_size} {crop}".encode()
        where = b"" if points is None else np.ascontiguousarray(points, "<f8").tobytes()
        return hashlib.sha256(hashlib.sha256(data).digest() + where + how).hexdigest()

    def pool(self) -> ThreadPoolExecutor:
        """Return the threads that `read_all` and `keys` read files in."""
        return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))

    def read_all(
        self, pool: ThreadPoolExecutor, root: Path, names: Sequence[str], problems: Problems
    ) -> np.ndarray | None:
        """Return the faces of `names`, paths relative to `root`: uint8 RGB (n, height, width, 3).

        Files that cannot be used are noted in `problems`; None if it holds any, now or before.
        """
        self._check_places(root)
        read = [face for _, face in self.each(pool, self, root, names, problems)]
        if problems:
            return None
        return np.stack(read) if read else np.zeros((0, *self.input_size, 3), np.uint8)

    def keys(
        self, pool: ThreadPoolExecutor, root: Path, names: Sequence[str], problems: Problems
    ) -> list[tuple[str, str]]:
        """Return the names that have a file, and its key; the others are noted in `problems`."""
        self._check_places(root)
        return self.each(pool, self.key, root, names, problems)

    @staticmethod
    def each(
        pool: ThreadPoolExecutor,
        function: Callable[[Path, str], Any],
        root: Path,
        names: Sequence[str],
        problems: Problems,
    ) -> list[tuple[str, Any]]:
        """Return name and `function(path, name)` of each file; ValueErrors go to `problems`."""

        def attempt(name: str) -> Any:
            try:
                return function(root / name, name)
            except ValueError as error:
                return error

        values = []
        for name, value in zip(names, pool.map(attempt, names), strict=True):
            if isinstance(value, ValueError):
                problems.add(name, str(value))
            else:
                values.append((name, value))
        return values

    def _points(self, name: str) -> np.ndarray | None:
        if self.landmarks is None:
            return None
        listed = name if name in self.landmarks else self._names.get(without_suffix(name))
        if listed is None:
            raise ValueError("not in the landmark file")
        return np.asarray(self.landmarks[listed], np.float64)

    def _check_places(self, root: Path) -> None:
        """Compare the landmarks with the images' sizes, once."""
        if self._given is not None and self.landmarks is not None:
            check_places(self._given, self.landmarks, root)
            self._given = None

    @property
    def hint(self) -> str:
        """What to do about images of the wrong size."""
        if self.landmarks is not None:
            return ""
        if self.template_size is None:
            return f"Images must be aligned faces. {self.how_to_align}"
        return (
            "Images must be aligned faces. Align them here with --landmarks FILE (in Python: "
            f"landmarks=...), or beforehand: {self.how_to_align} --landmarks FILE"
        )

    @property
    def how_to_align(self) -> str:
        """The command that makes faces for the network, or why there is none."""
        if self.template_size is None:
            known = " and ".join(f"{height}x{width}" for height, width in sorted(TEMPLATES))
            height, width = self.input_size
            return (
                f"There is no template for {height}x{width} here (only {known} and whole fractions "
                "of them): cut the faces out as those were that the network was trained on"
            )
        height, width = self.template_size
        size = "" if (height, width) == (112, 96) else f" --size {height}x{width}"
        return f"tf_sphereface-align SRC DST{size}"


class Problems:
    """The reasons why files cannot be used, collected for one error that lists them all."""

    def __init__(self, kind: str = "images") -> None:
        self._kind = kind
        self._reasons: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Note why `name` cannot be used."""
        self._reasons[name] = reason

    def raise_if_any(self, total: int, where: object, hint: str = "") -> None:
        """Raise a ValueError that lists the first bad files of `total`, and the likely cause.

        `where` is the folder of the files; `hint` is for wrong sizes.
        """
        if not self._reasons:
            return
        names = sorted(self._reasons)
        lines = [self._line(name, where) for name in names[:SHOWN]]
        lines += names[SHOWN:]  # only counted
        sizes = any("pixels" in reason for reason in self._reasons.values())
        missing = [name for name in names if self._reasons[name] == MISSING]
        cause = _likely_cause(where, missing) if isinstance(where, Path) and missing else ""
        raise ValueError(
            f"{len(self._reasons):,} of {total:,} {self._kind} in {where} cannot be used, and a "
            f"protocol skips none:\n  {and_more(lines, SHOWN, separator=SEPARATOR)}"
            + (f"\n{hint}" if hint and sizes else "")
            + (f"\n{cause}" if cause else "")
        )

    def _line(self, name: str, where: object) -> str:
        reason = self._reasons[name]
        if reason == MISSING and isinstance(where, Path):
            reason = _missing(where / name)
        return f"{name}: {reason}"


def iterate_faces(
    root: Path, names: Sequence[str], reader: FaceReader, problems: Problems
) -> Iterator[np.ndarray]:
    """Yield the faces of `names` in order, uint8 RGB (n, height, width, 3), n at most 256.

    After the first problem nothing more is yielded, but the remaining files are still read, so that
    `problems` names every one.
    """
    with reader.pool() as pool:
        for start in range(0, len(names), CHUNK):
            images = reader.read_all(pool, root, names[start : start + CHUNK], problems)
            if images is not None:
                yield images


def _missing(path: Path) -> str:
    """Say that a file is missing, and which similar name there is nearby."""

    def simple(name: str) -> str:
        stem = unicodedata.normalize("NFC", name.rsplit(".", 1)[0]).casefold()
        return re.sub(r"[\W_]+", "_", re.sub(r"0*(\d+)", r"\1", stem))

    folder = path.parent
    if not folder.is_dir() and folder.parent.is_dir():
        alike = [p for p in folder.parent.iterdir() if simple(p.name) == simple(folder.name)]
        folder = min(alike, default=folder)
    if not folder.is_dir():
        return "missing"
    wanted = simple(path.name)
    alike = [p for p in folder.iterdir() if p.is_file() and simple(p.name) == wanted]
    if not alike:
        return "missing"
    return f"missing; misnamed? There is {folder.name}/{min(alike).name}"


def _likely_cause(root: Path, names: Sequence[str]) -> str:
    """Say why files that should be in `root` are missing there; empty where nothing tells."""
    some = names[:: max(1, len(names) // 20)]

    def holds(folder: Path) -> bool:
        return any(find_image(folder / name).is_file() for name in some)

    try:
        below = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except OSError:
        below = []
    for name in below[:100]:
        if holds(root / name):
            return f"Likely cause: the images lie one level deeper: give {root / name}"
    if holds(root.parent):
        return f"Likely cause: the images lie one level higher: give {root.parent}"
    if any(find_image(root / Path(name).name).is_file() for name in some):
        return "Likely cause: the images lie beside each other, not in a folder for each person"
    alike = {name: _missing(root / name).rpartition("There is ")[2] for name in some}
    if any(name.casefold() == found.casefold() for name, found in alike.items()):
        return "Likely cause: upper and lower case of names differ"
    if any(found != "missing" for found in alike.values()):
        return "Likely cause: the files are named otherwise, such as _1 for _0001"
    if not any((root / name).parent.is_dir() for name in some):
        held = and_more(below, 3) or "no folder"
        return f"None of these people's folders is in {root}, which holds {held}"
    return ""


def _template_size(input_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the template that the input is, or is a whole fraction of."""
    for height, width in sorted(TEMPLATES):
        if height % input_size[0] == 0 and width * input_size[0] == height * input_size[1]:
            return height, width
    return None
