"""Journal of an alignment: JSON lines of the results so far, from which a stopped run goes on."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Container, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
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
        name: path inside SRC; a frame has that of the video, `#` and its number.
        size: (height, width) in pixels; None if it could not be read.
        faces: all faces in it, points rounded to hundredths of a pixel.
        broken: why it could not be read.
        files: the crops, relative to DST.
        of_video: whether it is a frame of a video.
    """

    name: str
    size: tuple[int, int] | None = None
    faces: list[Face] = field(default_factory=list)
    broken: str | None = None
    files: list[str] = field(default_factory=list)
    of_video: bool = False


class Journal:
    """A file of JSON lines that only grows; a line that was cut off is skipped.

    It knows the SRC and the image that each crop in DST comes from, so that no other files are
    replaced or removed. Images of different SRC are different, even with the same name.

    Args:
        dst: the folder of the crops; created, with the journal in it, when missing.
        src: the folder of the images.
        detector: the detector's settings; faces found with other settings are not reused.
        overwrite: reuse nothing, and replace files and faces from elsewhere.
    """

    def __init__(
        self, dst: Path, src: Path, detector: str = "", *, overwrite: bool = False
    ) -> None:
        self._folder: str | None = None  # the SRC of which all images went to DST
        self._dst, self._src, self._detector = dst, str(src.resolve()), detector
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._found: dict[Key, tuple[Stat, str, Found]] = {}
        self._done: dict[Key, tuple[str, list[str]]] = {}  # settings and files
        self._owners: dict[str, Key] = {}  # of each file, obsolete ones included
        path = dst / JOURNAL
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            self._take(line)
        if overwrite:
            self._found.clear()
            self._done.clear()
        dst.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def take_folder(self) -> None:
        """Note that all of SRC goes to DST; ValueError if DST has the faces of another folder."""
        if self._folder == self._src:
            return
        if self._folder is not None and not self._overwrite:
            raise ValueError(
                "DST must be a folder of its own for each SRC: its faces and lists are those of "
                f"{self._folder}, and --overwrite replaces them. Received: {self._dst}"
            )
        self._folder = self._src
        self._write({"folder": self._src})

    def get(self, name: str, stat: Stat) -> Found | None:
        """Return what is known about an image, unless file or detector have changed since.

        One that could not be read is tried again: the cause may be gone, and the file as it was.
        """
        entry = self._found.get((self._src, name))
        if entry is None or entry[:2] != (stat, self._detector) or entry[2].broken is not None:
            return None
        return entry[2]

    def is_done(self, name: str, output: str, files: Sequence[str]) -> bool:
        """Tell whether these crops are there, written for the image with the settings `output`."""
        key = self._src, name
        return self._done.get(key) == (output, list(files)) and all(
            self._owners.get(file) == key and (self._dst / file).is_file() for file in files
        )

    def obstacle(self, name: str, files: Sequence[str], others: Container[str]) -> str | None:
        """Say which of these crops of an image may not be replaced, and why; None if all may.

        `others` are the images of SRC in this run. What they wrote with other settings may be
        replaced: none of them writes these files now.
        """
        if self._overwrite:
            return None
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
        self._done.pop((self._src, found.name), None)  # earlier crops are from other points
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
        """Note which image these crops belong to, before they are written."""
        key = self._src, name
        if any(self._owners.get(file) != key for file in files):
            self._write({"claims": name, "src": self._src, "files": list(files)})
            self._owners.update(dict.fromkeys(files, key))

    def written(self, name: str, output: str, files: Sequence[str]) -> None:
        """Note that all crops of an image are written."""
        self._write({"written": name, "src": self._src, "output": output, "files": list(files)})
        self._done[self._src, name] = output, list(files)

    def remove_obsolete(self, names: Iterable[str]) -> None:
        """Delete the crops that these images needed with other settings, and no longer do.

        To be called when all images are done, because a file that one of them no longer needs may
        now belong to another.
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

    def left_behind(self, names: Set[str]) -> list[str]:
        """Return the crops in DST of files that SRC had and has no more; `names` are its files."""
        return sorted(
            file
            for file, (src, name) in self._owners.items()
            if src == self._src
            and names.isdisjoint((name, name.rpartition("#")[0]))  # a frame's video
            and (self._dst / file).is_file()
        )

    def _write(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def _take(self, line: str) -> None:
        """Read one line."""
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            value = json.loads(line)
            if "folder" in value:
                self._folder = value["folder"]
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
        """Read the faces of an image; earlier crops are from other points."""
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
