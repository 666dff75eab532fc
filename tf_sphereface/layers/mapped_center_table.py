"""Class centres and their optimizer state in memory-mapped files."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.layers.center_table import CenterTable
from tf_sphereface.utils.files import try_lock, write_json

_FACTS, _LOCK = "centers.json", "lock"
_FILE = re.compile(r"(centers|slot_\d+)\.f32")


class MappedCenterTable(CenterTable):
    """A `CenterTable` in memory-mapped files of a folder, which may be larger than the memory.

    The files have two places for each class. What the last checkpoint needs is never overwritten:
    the first write of a class after it goes to the other place. So the files grow no more once
    they are made, and a process may be killed at any moment, in the middle of a write too: the
    checkpoint says which place of each class is its own, and has a checksum of its content.

    A folder is used by one process, and in it by the model that opened it last.

    Args:
        folder: a new one, or one with files that no checkpoint needs, or (for `restore`) those of
            the run that goes on.
        num_classes: as of `CenterTable`.
        *others: the other arguments of it.
    """

    copies = 2

    def __init__(self, folder: str | os.PathLike[str], num_classes: int, *others: Any) -> None:
        super().__init__(num_classes, *others)
        self.folder = Path(folder)
        self.place = str(self.folder.absolute())
        self._lock: int | None = None
        self._token = ""
        self._kept = self._left = False
        self._side = np.zeros(num_classes, np.uint8)  # the place of each class that is read
        self._fresh = np.zeros(num_classes, np.bool_)  # written since the last checkpoint
        self._sums: list[NDArray[np.uint32]] = []

    def __del__(self) -> None:
        lock = getattr(self, "_lock", None)
        if lock is not None:
            os.close(lock)

    def add(self, constant: float) -> None:
        """Add a table, filled with one number."""
        if self._tables:
            raise ValueError(
                "the optimizer of a model whose centers are in files cannot be changed for one "
                "that keeps more of them, once it has trained. Make a new model"
            )
        super().add(constant)

    def open(self) -> None:
        """Make the files at their full size and draw the first centres, unless that is done.

        Raises:
            ValueError: the folder has files that a checkpoint needs, or another process uses them.
            OSError: the disk has not as much room.
        """
        if self._tables:
            return
        if self._left:
            raise ValueError(f"{self.folder} is used by another model now, which took it over")
        self._take_lock()
        facts = self._stored()
        if facts.get("kept"):
            raise ValueError(
                f"{self.folder} holds the class centres of a run that has a checkpoint: resume "
                "that run, choose another folder for this one (--centers), or remove the old one"
            )
        self._token = secrets.token_hex(16)
        (self.folder / _FACTS).unlink(missing_ok=True)
        self._sums = [np.zeros(self.shape[0], np.uint32) for _ in (0, *self._constants)]
        try:
            super().open()
        except OSError:
            for path in self._files():
                path.unlink()
            raise
        for start, stop in self._blocks():
            self._sums[0][start:stop] = _checksums(self.block(start, stop))
        for sums, constant in zip(self._sums[1:], self._constants, strict=True):
            sums[:] = _checksums(np.full((1, self.shape[1]), constant, np.float32))
        self._write_facts(kept=False)

    def read(self, classes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Return the rows of some classes from each table, in the order of the files."""
        self.open()
        begun = time.perf_counter()
        order = np.argsort(classes)
        where = self._where(classes[order])
        rows = []
        for table in self._tables:
            chosen = np.empty((len(classes), self.shape[1]), np.float32)
            chosen[order] = table[where]
            rows.append(chosen)
        self.seconds += time.perf_counter() - begun
        return rows

    def write(self, classes: NDArray[np.int32], rows: Sequence[NDArray[np.float32]]) -> None:
        """Put rows of some classes, none twice, where the last checkpoint has none of its own."""
        self.open()
        begun = time.perf_counter()
        order = np.argsort(classes)
        ordered = classes[order]
        turned = ordered[~self._fresh[ordered]]
        self._side[turned] ^= 1
        self._fresh[turned] = True
        for sums, new in zip(self._sums, rows, strict=True):
            sums[classes] = _checksums(new)
        self.seconds += time.perf_counter() - begun
        super().write(ordered, [new[order] for new in rows])

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint file holds of the tables."""
        return (1 + 4 * (1 + len(self._constants))) * self.shape[0]

    def facts(self) -> dict[str, Any]:
        """Return where the tables are and which they are, ready for JSON."""
        return {"place": self.place, "token": self._token}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return which place of each class is its own, and checksums; the files are synchronised.

        Raises:
            ValueError: a centre is not finite.
        """
        self.open()
        self._require_finite()
        for table in self._tables:
            table.flush()  # type: ignore[attr-defined]
        return {"side": self._side} | {f"sums/{n}": sums for n, sums in enumerate(self._sums)}

    def kept(self) -> None:
        """Note that what `state` returned last is on disk: it is not overwritten from here on."""
        self._fresh[:] = False
        if not self._kept:
            self._write_facts(kept=True)
            self._kept = True

    def restore(self, state: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Open the files in the state of a checkpoint, and check it.

        Raises:
            ValueError: the folder has not the files of that run, they are damaged, or they are of
                a later state.
        """
        stored, tables = self._stored(), 1 + len(self._constants)
        names = {"side", *(f"sums/{number}" for number in range(tables))}
        sizes = {value.shape for value in state.values()}
        if set(state) != names or sizes != {self.shape[:1]}:
            raise ValueError("the checkpoint has class centres of another number or size")
        if not stored or stored["token"] != facts.get("token"):
            raise ValueError(
                f"{self.folder} does not hold the class centres of the run, which were in "
                f"{facts.get('place')}: name the folder where they are now (--centers DIR)"
            )
        self._take_lock()
        self._token, self._kept = stored["token"], bool(stored["kept"])
        self._tables = [self._mapped(number) for number in range(tables)]
        self._side = np.array(state["side"], np.uint8)
        self._fresh[:] = False
        self._sums = [np.array(state[f"sums/{number}"], np.uint32) for number in range(tables)]
        wrong = np.zeros(self.shape[0], np.bool_)
        for number, sums in enumerate(self._sums):
            for start, stop in self._blocks():
                found = _checksums(self.block(start, stop, number))
                wrong[start:stop] |= found != sums[start:stop]
        if wrong.any():
            self._tables = []
            raise ValueError(
                f"{self.folder} does not hold the class centres of this checkpoint: those of "
                f"{int(wrong.sum()):,} classes are of a later state, or damaged. The files go back "
                "to the newest checkpoint alone"
            )

    def _where(self, classes: Any) -> Any:
        if isinstance(classes, slice):
            classes = np.arange(classes.start, classes.stop)
        return 2 * np.asarray(classes, np.int64) + self._side[classes]

    def _check_room(self) -> None:
        """Reserve the room on disk."""
        there = sum(path.stat().st_size for path in self._files())
        free = shutil.disk_usage(self.folder).free + there
        if self.bytes > free:
            raise OSError(
                f"class centres and optimizer state take {self.bytes / 1e9:.1f} GB in "
                f"{self.folder}, twice their size, and its disk has {free / 1e9:.1f} GB left"
            )

    def _filled(self, number: int) -> Any:
        path = self._path(number)
        path.unlink(missing_ok=True)
        size = 4 * self.copies * self.shape[0] * self.shape[1]
        with path.open("wb") as handle:
            if hasattr(os, "posix_fallocate"):  # what is mapped without room ends the process
                os.posix_fallocate(handle.fileno(), 0, size)
            else:
                for start in range(0, size, 2**24):
                    handle.write(bytes(min(2**24, size - start)))
        table = self._mapped(number)
        constant = self._constants[number - 1] if number else 0.0
        if constant:
            table.fill(constant)
        return table

    def _mapped(self, number: int) -> Any:
        path, shape = self._path(number), (self.copies * self.shape[0], self.shape[1])
        size = path.stat().st_size if path.exists() else 0
        if size != 4 * shape[0] * shape[1]:
            raise ValueError(
                f"{path} must have {4 * shape[0] * shape[1]:,} bytes, and has {size:,}: the file "
                "is damaged, or of other classes"
            )
        return np.memmap(path, np.float32, "r+", shape=shape)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.f32") if _FILE.fullmatch(path.name)]

    def _path(self, number: int) -> Path:
        return self.folder / (f"slot_{number - 1}.f32" if number else "centers.f32")

    def _take_lock(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--centers must name a folder. Received: the file {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        own = {_FACTS, _LOCK, *(path.name for path in self._files())}
        others = {p.name for p in self.folder.iterdir() if not p.name.startswith(".")} - own
        if others:
            raise ValueError(
                f"{self.folder} holds other files ({min(others)}): choose a folder of its own for "
                "the class centres (--centers)"
            )
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT)
        place = os.fstat(descriptor)  # the folder may have been moved under a model of this process
        key = f"{place.st_dev}:{place.st_ino}"
        owner = _OPEN.get(key)
        if owner is not None and owner is not self:
            owner._leave()
        _OPEN[key] = self
        if self._lock is not None:
            os.close(descriptor)
            return
        if not try_lock(descriptor):
            os.close(descriptor)
            raise ValueError(f"{self.folder} is in use by another process")
        self._lock = descriptor

    def _leave(self) -> None:
        """Leave the files to another model of this process."""
        self._tables, self._left = [], True
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _stored(self) -> dict[str, Any]:
        """Return the facts in the folder; {} where there are none that can be read."""
        try:
            facts = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) and {"token", "kept"} <= set(facts) else {}

    def _write_facts(self, kept: bool) -> None:
        classes, width = self.shape
        facts = {"token": self._token, "kept": kept, "classes": classes, "width": width}
        write_json(self.folder / _FACTS, facts)


_OPEN: weakref.WeakValueDictionary[str, MappedCenterTable] = weakref.WeakValueDictionary()


def _checksums(rows: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return a checksum of each row: the sum of its 32-bit words."""
    words = np.ascontiguousarray(rows).view(np.uint32)
    return np.add.reduce(words, axis=1, dtype=np.uint32)
