"""What `tf_sphereface-align` has found so far, a line at a time, so that it can be stopped."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tf_sphereface.detect import Face

Stat = tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass
class Found:
    """What is known about one image.

    Args:
        name: path inside SRC; of a frame, the video's and `#` and its number.
        size: (height, width) in pixels; None if it could not be read.
        faces: all faces in it, points rounded to hundredths of a pixel.
        broken: why it could not be read.
        output: the settings that its crops were written with; None before.
        files: the crops, relative to DST.
    """

    name: str
    size: tuple[int, int] | None = None
    faces: list[Face] = field(default_factory=list)
    broken: str | None = None
    output: str | None = None
    files: list[str] = field(default_factory=list)


class Journal:
    """A file of JSON lines that is only ever added to; a line that was cut off is skipped.

    Args:
        path: the file; made when missing.
        detector: what the detector was set to; faces found with other settings are not reused.
        fresh: reuse nothing.
    """

    def __init__(self, path: Path, detector: str, *, fresh: bool = False) -> None:
        self._detector = detector
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Stat, str, Found]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            self._take(line)
        self.known = {name: list(found.files) for name, (_, _, found) in self._found.items()}
        if fresh:
            self._found.clear()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def get(self, name: str, stat: Stat) -> Found | None:
        """Return what is known about an image, unless file or detector have changed since."""
        entry = self._found.get(name)
        if entry is None or entry[:2] != (stat, self._detector):
            return None
        return entry[2]

    def found(self, found: Found, stat: Stat) -> None:
        """Note the faces of an image, before a crop is written."""
        faces = [
            {"box": _rounded(f.box), "score": round(f.score, 4), "points": _rounded(f.points)}
            for f in found.faces
        ]
        self._write(
            {
                "image": found.name,
                "stat": stat,
                "detector": self._detector,
                "size": found.size,
                "faces": faces,
                "broken": found.broken,
            }
        )

    def written(self, found: Found) -> None:
        """Note that the crops of an image are there."""
        self._write({"written": found.name, "output": found.output, "files": found.files})

    def _write(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def _take(self, line: str) -> None:
        """Read one line."""
        try:
            value = json.loads(line)
            if "written" in value:
                found = self._found[value["written"]][2]
                found.output, found.files = value["output"], list(value["files"])
                return
            faces = [
                Face(np.array(f["box"]), f["score"], np.array(f["points"])) for f in value["faces"]
            ]
            name, shape = value["image"], value["size"]
            before = self._found.get(name)
            found = Found(name, shape and (shape[0], shape[1]), faces, value["broken"])
            if before is not None:  # its crops are ours, but of other points
                found.files = before[2].files
            size, changed = value["stat"]
            self._found[name] = (size, changed), value["detector"], found
        except (ValueError, KeyError, TypeError, IndexError):
            return


def rounded(face: Face) -> Face:
    """Return a face whose numbers are those that the journal and the landmark file hold."""
    return Face(np.array(_rounded(face.box)), round(face.score, 4), np.array(_rounded(face.points)))


def _rounded(values: Any) -> list[Any]:
    return np.round(values, 2).tolist()
