"""Sources of a pipeline of faces: an array, a file of decoded faces, image files, or a pack."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.arrays import check_arrays
from tf_sphereface.data.decoding import (
    decode_face,
    fit,
    path_size,
    read_all,
    room_for,
)
from tf_sphereface.data.fetching import (
    Fetch,
    fetch_array,
    fetch_encoded,
    read_files,
    read_strings,
)
from tf_sphereface.data.folder_index import (
    FolderIndex,
    SkipReport,
    note_passed_over,
    scan_folder,
)
from tf_sphereface.data.options import Size
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.reading import Pack, open_pack
from tf_sphereface.data.people import check_path
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec
from tf_sphereface.utils.exit_guard import guarded
from tf_sphereface.utils.files import atomic_path, write_json
from tf_sphereface.utils.messages import ProgressCallback

Source = FolderIndex | Pack | RecordFile | str | os.PathLike[str] | tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class NumberedImages:
    """Images that are fetched by their position.

    `fetch` and `labels` are graph functions from positions, int64 (batch,), to uint8 RGB images
    (batch, height, width, 3) and to int32 (batch,). `fetch` also takes which images to flip left to
    right, booleans (batch,), or None. `class_counts`, int64 (classes,), are the images of each
    label; `names` the people's, None for arrays; `where` names the source. `targets`, if there are
    any, is a graph function from positions and booleans, whether each image is mirrored (None: not
    one is), to what a network is to make of it, float32 (batch, d).
    """

    count: int
    fetch: Fetch
    labels: Callable[[tf.Tensor], tf.Tensor]
    class_counts: NDArray[np.int64]
    names: list[str] | None = None
    where: str = "the data"
    targets: Fetch | None = None


def open_source(
    source: Source,
    size: Size,
    cache: str | os.PathLike[str],
    *,
    strict: bool = False,
    report: SkipReport | None = None,
    resize: bool = False,
    progress: ProgressCallback | None = None,
) -> NumberedImages:
    """Open a source; the arguments are those of `face_dataset`."""
    if isinstance(source, tuple | list):
        images, labels = check_arrays(source, size)
        return _images(fetch_array(images), labels)
    if isinstance(source, RecordFile) or (
        not isinstance(source, FolderIndex | Pack) and is_rec(source)
    ):
        records = open_rec(
            source,
            errors="raise" if strict else "skip",
            image_size=None if resize else size,
            report=report,
            progress=progress,
        )
        return _recorded(records, size, resize)
    if not isinstance(source, Pack | FolderIndex):
        check_path(source)
    if isinstance(source, Pack) or (not isinstance(source, FolderIndex) and is_pack(source)):
        pack = open_pack(
            source, errors="raise" if strict else "skip", report=report, progress=progress
        )
        return _packed(pack, size, resize)
    index = source if isinstance(source, FolderIndex) else scan_folder(source)
    if not index.checked:  # else it was said then
        note_passed_over(index, strict, report)
    read = functools.partial(
        read_all, index, size, allow_resize=resize, strict=strict, progress=progress
    )
    if cache == "memory":
        images = room_for(len(index), size)
        index = read(report=report, store=images.__setitem__)
        return _images(fetch_array(images), index.labels, index)
    if cache == "none":
        good = index if index.checked and index.image_size == size else read(report=report)

        return _images(_streamed(good, size, resize), good.labels, index)
    key = _fingerprint(index, size, resize)
    mapped, labels, skipped = _disk_cache(Path(cache), key, strict, (len(index), *size, 3), read)
    if report is not None:
        report.reasons.update(skipped)
    return _images(fetch_array(mapped), labels, index)


def _streamed(index: FolderIndex, size: Size, resize: bool) -> Fetch:
    """Return what reads the files of a folder at each use."""

    def paths(positions: NDArray[np.int64]) -> list[Path]:
        return [index.paths[place] for place in positions.tolist()]

    def decode(encoded: bytes, position: int) -> NDArray[np.uint8]:
        return decode_face(encoded, index.paths[position], size, resize)

    return fetch_encoded(read_files(paths), decode, size)


def _packed(pack: Pack, size: Size, resize: bool) -> NumberedImages:
    """Return the images of a packed folder."""
    if not resize and pack.image_size != size:
        held = path_size(pack.image_size) + " pixels" if pack.image_size else "several sizes"
        raise ValueError(
            f"{pack.root} holds images of {held}, expected {path_size(size)} (height x width). "
            "Pack them with --resize, or pass resize=True (to train: --resize)"
        )
    ends = tf.constant(pack.label_ends())

    root = str(pack.root)

    def decode(encoded: bytes, position: int) -> NDArray[np.uint8]:
        return fit(decode_image(encoded, root), size, resize, f"an image of {root}")

    counts = np.diff(pack.label_ends(), prepend=0)
    return NumberedImages(
        len(pack),
        fetch_encoded(read_strings(pack.read), decode, size),
        lambda p: tf.searchsorted(ends, p, side="right"),
        counts,
        pack.names,
        root,
    )


def _recorded(records: RecordFile, size: Size, resize: bool) -> NumberedImages:
    """Return the images of a RecordIO file; labels are looked up there, not kept a second time."""
    if not resize:
        records.check_size(size)

    def labels(positions: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(
            lambda places: guarded(
                lambda: records.labels_at(places),
                at_the_end=lambda: np.zeros(len(places), np.int32),
            ),
            [positions],
            tf.int32,
        )
        return tf.ensure_shape(found, positions.shape)

    def decode(encoded: bytes, position: int) -> NDArray[np.uint8]:
        return records.face(encoded, position, size, resize)

    return NumberedImages(
        len(records),
        fetch_encoded(read_strings(records.read), decode, size),
        labels,
        records.counts(),
        records.names,
        str(records.path),
    )


def fetch_targets(table: NDArray[np.floating[Any]]) -> Fetch:
    """Return `NumberedImages.targets` for a table (2, n, d): of the images, then of the mirrored.

    It may be mapped from a file: a batch reads its own rows alone.
    """

    def read(positions: NDArray[np.int64], mirror: NDArray[np.bool_]) -> NDArray[np.float32]:
        return guarded(
            lambda: np.asarray(table[mirror.astype(np.int64), positions], np.float32),
            at_the_end=lambda: np.zeros((len(positions), table.shape[2]), np.float32),
        )

    def fetch(positions: tf.Tensor, mirror: tf.Tensor | None) -> tf.Tensor:
        if mirror is None:
            mirror = tf.zeros_like(positions, tf.bool)
        batch = tf.numpy_function(read, [positions, mirror], tf.float32)
        return tf.ensure_shape(batch, (positions.shape[0], table.shape[2]))

    return fetch


def _images(
    fetch: Fetch, labels: NDArray[np.int32], index: FolderIndex | None = None
) -> NumberedImages:
    table = tf.constant(labels)
    people = 0 if index is None else index.num_classes
    counts = np.bincount(labels, minlength=people)
    images = NumberedImages(len(labels), fetch, lambda p: tf.gather(table, p), counts)
    if index is None:
        return images
    return dataclasses.replace(images, names=index.names, where=str(index.root))


def _fingerprint(index: FolderIndex, size: Size, resize: bool) -> str:
    """Return a hash that changes when a file, its label, or what is made of it changes."""
    how = "resized by templates" if resize else "read_image"
    facts = [file_facts(index), index.labels.tolist(), size, resize, how]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def file_facts(index: FolderIndex) -> list[list[Any]]:
    """Return path, size and time of each file of a folder, ready for JSON."""
    stats = ((path, path.stat()) for path in index.paths)
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _disk_cache(
    path: Path, key: str, strict: bool, shape: tuple[int, ...], read: Callable[..., FolderIndex]
) -> tuple[NDArray[np.uint8], NDArray[np.int32], dict[Path, str]]:
    """Open decoded faces, `path`.npy, and what belongs to them, `path`.json; make both if stale."""
    name = path.name.removesuffix(".npy")
    path, side = path.with_name(name + ".npy"), path.with_name(name + ".json")
    stored = _stored_facts(path, side)
    if path.exists() and stored["key"] == key and not (strict and stored["skipped"]):
        reasons = {Path(name): reason for name, reason in stored["skipped"].items()}
        labels = np.array(stored["labels"], np.int32)
        return _open_faces(path, (len(labels), *shape[1:])), labels, reasons
    skipped = SkipReport()
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:  # not mapped: a full disk would kill the process
            begin = _write_header(file, shape)
            good = read(report=skipped, store=lambda _, image: file.write(image.tobytes()))
            file.seek(0)
            if _write_header(file, (len(good), *shape[1:])) != begin:
                raise RuntimeError("the header of a .npy file has grown")
        write_json(side, _NO_FACTS)  # until the facts are there, the pair fits no source
    skipped_names = {str(name): reason for name, reason in skipped.reasons.items()}
    write_json(side, {"key": key, "labels": good.labels.tolist(), "skipped": skipped_names})
    return np.load(path, mmap_mode="r"), good.labels, skipped.reasons


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the header of a .npy file of uint8; return its length, the same for fewer rows."""
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.tell()


_NO_FACTS: dict[str, Any] = {"key": None, "labels": [], "skipped": {}}


def _stored_facts(path: Path, side: Path) -> dict[str, Any]:
    """Return what a cache's .json holds, `_NO_FACTS` where there is no cache yet."""
    if not side.exists():
        if path.exists():
            raise _not_a_cache(path)
        return _NO_FACTS
    try:
        stored = json.loads(side.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict) or set(stored) != set(_NO_FACTS):
        raise _not_a_cache(side)
    return stored


def _open_faces(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a cache's decoded faces, mapped, or raise where the file holds something else."""
    try:
        faces: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        raise _not_a_cache(path) from None
    if getattr(faces, "shape", None) != shape or faces.dtype != np.uint8:
        raise _not_a_cache(path)
    return faces


def _not_a_cache(path: Path) -> ValueError:
    return ValueError(
        "cache must be a path beside which the names with .npy and .json are free, or are those of "
        f"a whole cache. Received: {path}, which is something else, or damaged: choose another "
        "path, or remove that file"
    )
