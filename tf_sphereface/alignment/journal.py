"""The journal of an alignment: what was found so far, a line at a time, so that it can stop."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tf_sphereface.alignment.detector import Face

JOURNAL = ".align.jsonl"
Stat = tuple[int, int]  # size in bytes, time of the last change in ns
Key = tuple[str, str]  # SRC, resolved, and the name of an image in it


@dataclass
class Found:
    """What is known about one image.

    Args:
        name: path inside SRC; of a frame, the video's and `#` and its number.
        size: (height, width) in pixels; None if it could not be read.
        faces: all faces in it, points rounded to hundredths of a pixel.
        broken: why it could not be read.
        files: the crops, relative to DST.
        of_video: it is a frame of a video.
    """

    name: str
    size: tuple[int, int] | None = None
    faces: list[Face] = field(default_factory=list)
    broken: str | None = None
    files: list[str] = field(default_factory=list)
    of_video: bool = False


class Journal:
    """A file of JSON lines that is only ever added to; a line that was cut off is skipped.

    It knows the SRC and the image that each crop in DST comes from, so that nothing else is
    replaced or removed. Images of another SRC are others, whatever their names.

    Args:
        dst: the folder of the crops; made, with the journal in it, when missing.
        src: the folder of the images.
        detector: what the detector was set to; faces found with other settings are not reused.
        fresh: reuse nothing.
    """

    def __init__(self, dst: Path, src: Path, detector: str = "", *, fresh: bool = False) -> None:
        self.folder: str | None = None  # whose images, all of them, went to DST
        self._dst, self._src, self._detector = dst, str(src.resolve()), detector
        self._lock = threading.Lock()
        self._found: dict[Key, tuple[Stat, str, Found]] = {}
        self._done: dict[Key, tuple[str, list[str]]] = {}  # settings and files
        self._owners: dict[str, Key] = {}  # of each file, also of those that settings made obsolete
        path = dst / JOURNAL
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            self._take(line)
        if fresh:
            self._found.clear()
            self._done.clear()
        dst.mkdir(parents=True, exist_ok=True)
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

    @property
    def of_another_folder(self) -> bool:
        """Whether a whole folder that is not SRC went to DST."""
        return self.folder not in (None, self._src)

    def take_folder(self) -> None:
        """Note that all of SRC goes to DST."""
        if self.folder != self._src:
            self.folder = self._src
            self._write({"folder": self._src})

    def get(self, name: str, stat: Stat) -> Found | None:
        """Return what is known about an image, unless file or detector have changed since."""
        entry = self._found.get((self._src, name))
        if entry is None or entry[:2] != (stat, self._detector):
            return None
        return entry[2]

    def is_done(self, name: str, output: str, files: Sequence[str]) -> bool:
        """Tell whether these files are there, and were written for the image with these settings.

        Args:
            name: of the image.
            output: the settings, and whatever else the crops depend on.
            files: the crops, relative to DST.
        """
        key = self._src, name
        return self._done.get(key) == (output, list(files)) and all(
            self._owners.get(file) == key and (self._dst / file).is_file() for file in files
        )

    def obstacle(self, name: str, files: Sequence[str], others: Container[str]) -> str | None:
        """Say which file is there and may not be replaced, and where it is from; None if none is.

        Args:
            name: the image whose crops are to be written.
            files: the crops, relative to DST.
            others: the images of SRC that this run looks at. What they wrote with other settings
                may be replaced: none of them will write these files now.
        """
        for file in files:
            owner = self._owners.get(file)
            ours = owner is not None and owner[0] == self._src
            if not (ours and owner and (owner[1] == name or owner[1] in others)):
                path, origin = self._dst / file, "elsewhere" if owner is None else Path(*owner)
                if path.exists():
                    return f"{path} is there already, from {origin}; --overwrite replaces it"
        return None

    def found(self, found: Found, stat: Stat) -> None:
        """Note the faces of an image, before a crop is written."""
        self._done.pop((self._src, found.name), None)  # its crops are of other points
        faces = [
            {"box": _rounded(f.box), "score": round(f.score, 4), "points": _rounded(f.points)}
            for f in found.faces
        ]
        self._write(
            {
                "image": found.name,
                "src": self._src,
                "stat": stat,
                "detector": self._detector,
                "size": found.size,
                "faces": faces,
                "broken": found.broken,
            }
        )

    def claim(self, name: str, files: Sequence[str]) -> None:
        """Note whose crops these files are, before they are written."""
        key = self._src, name
        if any(self._owners.get(file) != key for file in files):
            self._write({"claims": name, "src": self._src, "files": list(files)})
            self._owners.update(dict.fromkeys(files, key))

    def written(self, name: str, output: str, files: Sequence[str]) -> None:
        """Note that the crops of an image are there, and no others are needed."""
        self._write({"written": name, "src": self._src, "output": output, "files": list(files)})
        self._done[self._src, name] = output, list(files)

    def remove_obsolete(self, names: Iterable[str]) -> None:
        """Delete what these images have written with other settings, and no image has since.

        Only when all are done: a file that one of them does not need any more may be another's.
        """
        keys = ((self._src, name) for name in names)
        needed = {key: self._done[key][1] for key in keys if key in self._done}
        obsolete = [
            file
            for file, owner in self._owners.items()
            if owner in needed and file not in needed[owner]
        ]
        for file in obsolete:
            (self._dst / file).unlink(missing_ok=True)
            del self._owners[file]
        if obsolete:
            self._write({"removed": obsolete})

    def _write(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def _take(self, line: str) -> None:
        """Read one line."""
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            value = json.loads(line)
            if "folder" in value:
                self.folder = value["folder"]
            elif "removed" in value:
                for file in value["removed"]:
                    self._owners.pop(file, None)
            elif "claims" in value:
                self._owners.update(dict.fromkeys(value["files"], (value["src"], value["claims"])))
            elif "written" in value:
                self._done[value["src"], value["written"]] = value["output"], list(value["files"])
            else:
                self._take_found(value)

    def _take_found(self, value: dict[str, Any]) -> None:
        """Read what is known about an image; crops of before are of other points."""
        key, shape = (value["src"], value["image"]), value["size"]
        faces = [
            Face(np.array(f["box"]), f["score"], np.array(f["points"])) for f in value["faces"]
        ]
        found = Found(key[1], shape and (shape[0], shape[1]), faces, value["broken"])
        size, changed = value["stat"]
        self._found[key] = (size, changed), value["detector"], found
        self._done.pop(key, None)


def rounded(face: Face) -> Face:
    """Return a face whose numbers are those that the journal and the landmark file hold."""
    return Face(np.array(_rounded(face.box)), round(face.score, 4), np.array(_rounded(face.points)))


def _rounded(values: Any) -> list[Any]:
    return np.round(values, 2).tolist()
