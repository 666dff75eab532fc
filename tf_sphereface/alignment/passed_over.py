"""Files that a listing passes over, counted by suffix and other sorts."""

from __future__ import annotations

import os
import warnings

from tf_sphereface.alignment.suffixes import LIST_SUFFIXES, UNREAD_SUFFIXES, advice
from tf_sphereface.alignment.videos import VIDEO_SUFFIXES
from tf_sphereface.utils.messages import SphereFaceWarning

LOOSE, DEEP, LINK, BROKEN, CLOSED = "loose", "deep", "link", "broken link", "closed"
SYSTEM, HIDDEN, COPY, NO_SUFFIX = "system", "hidden", "copy", "no suffix"
_LOST = (LOOSE, DEEP, BROKEN, CLOSED)
_SORTS = {
    LOOSE: "loose, beside the people's folders: an image must lie in the folder of its person",
    DEEP: "a level too deep: an image must lie in its person's folder itself",
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
            if sort != HIDDEN and sort not in LIST_SUFFIXES
        ]
        return "\n  ".join(["passed over:", *lines]) if lines else ""

    def settle(self, folder: object, strict: bool = False) -> None:
        """Warn where images are left out of `folder`, or with `strict` raise ValueError.

        For callers that show no summary.
        """
        if strict:
            self.refuse(folder)
        if self.lost:
            warnings.warn(self.summary(), SphereFaceWarning, stacklevel=3)

    def refuse(self, folder: object) -> None:
        """Raise ValueError where images are left out: for `strict` callers."""
        if self.lost:
            raise ValueError(f"{folder}: a strict run leaves no image out. {self.summary()}")

    def _describe(self, sort: str) -> str:
        example = f"such as {self._examples[sort]}"
        if sort in _SORTS:
            what, _, why = _SORTS[sort].partition(": ")
            if sort == DEEP:
                people = os.path.dirname(os.path.dirname(self._examples[sort]))
                why += f"; if the people's folders are those in {people}, name that folder"
            return f"{what}, {example}" + (f": {why}" if why else "")
        why = advice(sort)
        return f"{sort}, {example}" + (f": {why}" if why else "")
