"""A teacher's embeddings of all training faces, computed once and kept in a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.training.teacher import Teacher, teacher_facts
from tf_sphereface.utils.files import sha256_file, write_json
from tf_sphereface.utils.messages import ProgressCallback, and_more

logger = logging.getLogger("tf_sphereface")
_BATCHES = 8  # in a block, after which what is done is noted
_ROWS = 65_536  # that are looked at together
PATIENCE, _PAUSE = 1800.0, 0.5  # seconds: without progress of another process, between two looks
_OFF = 0.01  # of a unit vector's length, in float16


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherEmbeddings:
    """A teacher's embeddings of the faces of a source.

    Attributes:
        table: float16 (2, n, dim), unit vectors, of the images and of their mirror images; mapped
            from the file.
        name: the teacher's file.
        sha256: as of `Teacher`.
        training_data: what the teacher was trained on, None where its file does not say.
        path: the `.npy` file.

    Example:

    >>> from tf_sphereface import data
    >>> faces = data.synthetic.training_set(2, 3, size=(28, 24))
    >>> table = np.stack([np.eye(2, dtype=np.float16)[faces[1]]] * 2)
    >>> kept = TeacherEmbeddings(table, "teacher.keras", "", None, Path("teacher.npy"))
    >>> kept.person_means(data.FaceSource(faces, image_size=(28, 24))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    table: NDArray[np.float16]
    name: str
    sha256: str
    training_data: str | None
    path: Path

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.table.shape[2])

    def person_means(self, source: FaceSource) -> NDArray[np.float32]:
        """Return the unit mean embedding of each person, (num_classes, dim); zeros for no face."""
        sums = np.zeros((source.num_classes, self.dim), np.float64)
        for start in range(0, len(source), _ROWS):
            rows = slice(start, start + _ROWS)
            np.add.at(sums, source.labels[rows], self.table[0, rows].astype(np.float64))
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)

    def origin(self) -> dict[str, Any]:
        """Return what an embedder's metadata say of the teacher that it was trained with."""
        return {
            "model": Path(self.name).name,
            "sha256": self.sha256,
            "training_data": self.training_data,
        }


def kept_embeddings(
    folder: str | os.PathLike[str], sha256: str, source: FaceSource
) -> TeacherEmbeddings | None:
    """Return the embeddings that a folder has of a teacher and these faces; None for none.

    Raises:
        ValueError: the file is damaged; it is named, and that it may be removed.
    """
    path = _path(folder, sha256, source)
    facts = _stored(path)
    unfinished = facts is None or facts["done"] != len(source) or facts["sha256"] is None
    if facts is None or unfinished or not path.exists():
        return None
    if sha256_file(path) != facts["sha256"]:
        raise ValueError(
            f"{path} is damaged: its checksum differs. Remove it, and it is computed again"
        )
    table = np.load(path, mmap_mode="r")
    name, data = facts["teacher"], facts["training_data"]
    return TeacherEmbeddings(table, name, sha256, data, path)


def kept_dim(folder: str | os.PathLike[str], sha256: str) -> int | None:
    """Return the length of the embeddings that a folder has of a teacher, of whatever faces."""
    for path in sorted(Path(folder).glob(f"{sha256[:12]}-*.npy")):
        return int(np.load(path, mmap_mode="r").shape[2])
    return None


def teacher_embeddings(
    teacher: Teacher,
    source: FaceSource,
    folder: str | os.PathLike[str],
    *,
    progress: ProgressCallback | None = None,
    warn: Callable[[str], None] = logger.warning,
    chief: bool = True,
) -> TeacherEmbeddings:
    """Return a teacher's embeddings of each face and of its mirror image, computed once.

    They are taken from `folder` where teacher and faces are those of before. A computation that
    was cut off goes on after its last whole block.

    Args:
        teacher: whose embeddings; each image is read at its size, whatever that of `source` is.
        source: the faces, in their order.
        folder: where they are kept, 4 bytes for each face and number of the embedding.
        progress: called with (done, all) faces.
        warn: called where kept embeddings are of other faces.
        chief: False, in the other processes of a run of several, waits for what the chief computes
            in the same folder, on a disk that they share.

    Raises:
        ValueError: the faces cannot be fed to the teacher; an embedding is not finite; a file in
            the folder is damaged.
        OSError: there is no room.
        TimeoutError: the chief gets no further.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> from tf_sphereface import data, training
    >>> teacher = training.open_teacher(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> source = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24))
    >>> teacher_embeddings(teacher, source, "teacher").table.shape
    (2, 4, 2016)
    """
    teacher.check_shape(source.image_size)
    source.load()
    kept = kept_embeddings(folder, teacher.sha256, source)
    if kept is not None:
        return kept
    if not chief:
        return _awaited(teacher, source, folder, progress)
    path = _path(folder, teacher.sha256, source)
    facts = {**teacher_facts(teacher), "done": 0, "sha256": None}
    table, done = _opened(path, (2, len(source), teacher.dim), warn, teacher)
    step = source.batch_size
    first = done // step
    done = first * step
    batches = source.in_order(
        "uint8", image_size=teacher.embedder.input_size, channel_order="rgb", start=first
    )
    for number, (images, *_) in enumerate(batches if done < len(source) else (), start=1):
        vectors = teacher.embed(np.asarray(images))
        rows = slice(done, done + vectors.shape[1])
        _check_finite(vectors, teacher, source, done)
        table[:, rows] = vectors
        done = rows.stop
        if number % _BATCHES == 0:
            table.flush()
            write_json(_beside(path), {**facts, "done": done})
        if progress is not None:
            progress(done, len(source))
    table.flush()
    _check_whole(table, path)
    del table
    os.replace(_partial(path), path)
    write_json(_beside(path), {**facts, "done": done, "sha256": sha256_file(path)})
    result = kept_embeddings(folder, teacher.sha256, source)
    if result is None:
        raise ValueError(f"{path} was changed while it was written: is another run using it?")
    return result


def _awaited(
    teacher: Teacher,
    source: FaceSource,
    folder: str | os.PathLike[str],
    progress: ProgressCallback | None,
) -> TeacherEmbeddings:
    """Return the embeddings once another process has written them."""
    path, last, moment = _path(folder, teacher.sha256, source), -1, time.monotonic()
    while (kept := kept_embeddings(folder, teacher.sha256, source)) is None:
        done = (_stored(path) or {"done": 0})["done"]
        if done != last:
            last, moment = done, time.monotonic()
            if progress is not None:
                progress(done, len(source))
        if time.monotonic() - moment > PATIENCE:
            raise TimeoutError(
                f"the chief has written no embeddings of {teacher.name} to {folder} for "
                f"{PATIENCE / 60:.0f} minutes: has it stopped, or is that no disk that all workers "
                "share (--cache DIR)?"
            )
        time.sleep(_PAUSE)
    return kept


def _path(folder: str | os.PathLike[str], sha256: str, source: FaceSource) -> Path:
    """Return the file of a teacher's embeddings of some faces, whatever size they are read at."""
    height, width = source.image_size
    key = json.dumps([sha256, source.fingerprint(), round(width / height, 2)])
    return Path(folder) / f"{sha256[:12]}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.npy"


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial.npy")


def _stored(path: Path) -> dict[str, Any] | None:
    """Return the facts beside a file, None where there are none that can be read."""
    try:
        facts = json.loads(_beside(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    named = {"done", "sha256", "teacher", "training_data"}
    return facts if isinstance(facts, dict) and named <= set(facts) else None


def _opened(
    path: Path, shape: tuple[int, int, int], warn: Callable[[str], None], teacher: Teacher
) -> tuple[Any, int]:
    """Return the table to fill, mapped, and how many faces of it are done."""
    partial, facts = _partial(path), _stored(path)
    if partial.exists() and facts is not None:
        try:
            table = np.load(partial, mmap_mode="r+")
        except (OSError, ValueError):
            table = np.zeros(0)
        if table.shape == shape and table.dtype == np.float16:
            return table, min(int(facts["done"]), shape[1])
    if any(path.parent.glob(f"{teacher.sha256[:12]}-*.json")) and facts is None:
        warn(
            f"{path.parent} has embeddings of {teacher.name}, of other faces than these: they are "
            "computed again, and the old ones stay"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    need, free = 2 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if need > free:
        raise OSError(
            f"{path.parent} has {free / 1e6:,.0f} MB left, and the embeddings take "
            f"{need / 1e6:,.0f} MB: name another folder (--cache)"
        )
    return np.lib.format.open_memmap(partial, "w+", np.float16, shape), 0


def _check_finite(
    vectors: NDArray[np.float32], teacher: Teacher, source: FaceSource, first: int
) -> None:
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=(0, 2)))
    if len(wrong):
        names = source.names_of(wrong + first)
        raise ValueError(
            f"the embeddings of {teacher.name} are not finite, or zero, for {len(wrong)} faces "
            f"({and_more(names, 4)}): it cannot be learnt from. Is it fed as it was trained?"
        )


def _check_whole(table: Any, path: Path) -> None:
    """Raise where a row was not written, as where two runs begin one file at a time."""
    for start in range(0, table.shape[1], _ROWS):
        lengths = np.linalg.norm(table[:, start : start + _ROWS].astype(np.float32), axis=2)
        if np.any(np.abs(lengths - 1) > _OFF):
            _beside(path).unlink(missing_ok=True)
            raise ValueError(
                f"{_partial(path)} has rows that were not written: did another run write it at the "
                "same time? Begin again"
            )
