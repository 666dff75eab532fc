"""Read faces for a protocol: aligned, at the network's size, and not one of them skipped."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.utils.messages import ProgressCallback as ProgressCallback

Landmarks = str | os.PathLike[str] | Mapping[str, np.ndarray]

Pool = ThreadPoolExecutor

CHUNK = 256  # faces in memory at a time


class FaceReader:
    """Reads one image file as the uint8 RGB face that an embedder takes.

    With landmarks the image is aligned. Without, it must be aligned already: at the network's
    size, or at the template's size if the network takes a whole fraction of it. A network of a
    fraction of the template's size (56x48 of 112x96) gets the template's crop averaged down.

    Args:
        input_size: (height, width) that the network takes, in pixels.
        landmarks: a landmark file, or name -> (5, 2) points in pixels of the image; None when the
            images are aligned.

    Raises:
        ValueError: landmarks are given, and there is no template for this size.
    """

    def __init__(self, input_size: tuple[int, int], landmarks: Landmarks | None = None) -> None:
        from tf_sphereface.alignment.align import TEMPLATES, read_landmarks

        self.input_size = input_size
        self.template_size = _template_size(input_size)
        self.landmarks: Mapping[str, np.ndarray] | None = None
        if landmarks is None:
            return
        if self.template_size is None:
            known = ", ".join(f"{height}x{width}" for height, width in TEMPLATES)
            raise ValueError(
                f"landmarks need a network whose input is {known}, or a whole fraction of it. "
                f"Received: an input of {input_size[0]}x{input_size[1]}"
            )
        self.landmarks = landmarks if isinstance(landmarks, Mapping) else read_landmarks(landmarks)

    def __call__(self, path: Path, name: str) -> np.ndarray:
        """Return the face in `path`, whose landmarks are listed under `name`.

        Raises:
            ValueError: the file is missing, cannot be read, has no landmarks or another size; the
                message is the reason alone.
        """
        from tf_sphereface.alignment.align import align
        from tf_sphereface.alignment.images import read_image

        if not path.is_file():
            raise ValueError(_missing(path))
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            raise ValueError("cannot be decoded as an image") from error
        points = self._points(name)
        if points is not None and self.template_size is not None:
            image = align(image, points, size=self.template_size, antialias=True)
        return self.fit(image)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Return an aligned face at the network's size.

        Raises:
            ValueError: it has neither that size nor the template's; the message is the reason.
        """
        size = tuple(image.shape[:2])
        if size == self.input_size:
            return image
        if size == self.template_size:
            return _shrink(image, self.input_size)
        sizes = sorted({self.input_size, self.template_size or self.input_size})
        wanted = " or ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"{size[0]}x{size[1]} pixels, not {wanted} (height x width)")

    def key(self, path: Path, name: str) -> str:
        """Return what the face in `path` is, as a hash: the file's bytes and how it is aligned.

        Args:
            path: the image file.
            name: what its landmarks are listed under.

        Returns:
            64 hexadecimal digits; equal where `self(path, name)` would be equal.

        Raises:
            ValueError: the file is missing or has no landmarks; the message is the reason alone.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(_missing(path)) from error
        points = self._points(name)
        crop = None if points is None else (self.template_size, "antialias")
        how = f"{self.input_size} {crop}".encode()
        where = b"" if points is None else np.ascontiguousarray(points, "<f8").tobytes()
        return hashlib.sha256(hashlib.sha256(data).digest() + where + how).hexdigest()

    def pool(self) -> Pool:
        """Return the threads that `read_all` and `keys` read files in."""
        return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))

    def read_all(
        self, pool: Pool, root: Path, names: Sequence[str], problems: Problems
    ) -> np.ndarray | None:
        """Read the faces of `names`, paths relative to `root`.

        Args:
            pool: threads to read in.
            root: the folder.
            names: paths relative to it.
            problems: where files that cannot be used are noted.

        Returns:
            uint8 RGB (n, height, width, 3), or None where there is a problem, now or before.
        """
        read = [face for _, face in self.each(pool, self, root, names, problems)]
        if problems:
            return None
        return np.stack(read) if read else np.zeros((0, *self.input_size, 3), np.uint8)

    def keys(
        self, pool: Pool, root: Path, names: Sequence[str], problems: Problems
    ) -> list[tuple[str, str]]:
        """Return the names that have a file, and its key; the others are noted in `problems`."""
        return self.each(pool, self.key, root, names, problems)

    @staticmethod
    def each(
        pool: Pool,
        function: Callable[[Path, str], Any],
        root: Path,
        names: Sequence[str],
        problems: Problems,
    ) -> list[tuple[str, Any]]:
        """Return name and value of `function(path, name)`; what it refuses goes to `problems`."""

        def attempt(name: str) -> Any:
            try:
                return function(root / name, name)
            except ValueError as error:
                return error

        found = []
        for name, value in zip(names, pool.map(attempt, names), strict=True):
            if isinstance(value, ValueError):
                problems.add(name, str(value))
            else:
                found.append((name, value))
        return found

    def _points(self, name: str) -> np.ndarray | None:
        if self.landmarks is None:
            return None
        if name not in self.landmarks:
            raise ValueError("not in the landmark file")
        return self.landmarks[name]

    @property
    def hint(self) -> str:
        """What to do about images of the wrong size."""
        if self.landmarks is not None:
            return ""
        return (
            "Images must be aligned faces. Align them here with --landmarks FILE (in Python: "
            "landmarks=...), or beforehand with: tf_sphereface-align SRC DST --landmarks FILE"
        )


class Problems:
    """Collects why files cannot be used, and says so once, for all of them."""

    def __init__(self, kind: str = "images") -> None:
        self._kind = kind
        self._reasons: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Note why `name` cannot be used."""
        self._reasons[name] = reason

    def raise_if_any(self, total: int, where: object, hint: str = "") -> None:
        """Raise a ValueError that lists what was noted.

        Args:
            total: of how many files.
            where: the folder.
            hint: a last line, for wrong sizes.
        """
        if not self._reasons:
            return
        lines = [f"  {name}: {reason}" for name, reason in sorted(self._reasons.items())]
        sizes = any("pixels" in reason for reason in self._reasons.values())
        raise ValueError(
            f"{len(self._reasons):,} of {total:,} {self._kind} in {where} cannot be used, and a "
            "protocol skips none:\n" + "\n".join(lines) + (f"\n{hint}" if hint and sizes else "")
        )


def iterate_faces(
    root: Path, names: Sequence[str], reader: FaceReader, problems: Problems
) -> Iterator[np.ndarray]:
    """Yield the faces of `names` in order, in pieces of at most 256.

    From the first problem on nothing more is yielded, but the rest is still read, so that
    `problems` names every file.

    Args:
        root: the folder.
        names: paths relative to it.
        reader: reads one file.
        problems: where files that cannot be used are noted.

    Yields:
        uint8 RGB, (n, height, width, 3).
    """
    with reader.pool() as pool:
        for start in range(0, len(names), CHUNK):
            images = reader.read_all(pool, root, names[start : start + CHUNK], problems)
            if images is not None:
                yield images


def _missing(path: Path) -> str:
    """Say that a file is missing, and which file near it may be it under a wrong name."""

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


def _template_size(input_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the template that the input is, or is a whole fraction of."""
    from tf_sphereface.alignment.align import TEMPLATES

    for height, width in sorted(TEMPLATES):
        if height % input_size[0] == 0 and width * input_size[0] == height * input_size[1]:
            return height, width
    return None


def _shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA))
