"""The files of a shard, their contents, and the index over all shards."""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.decoding import resize
from tf_sphereface.data.pack.format import CLASSES, FILES, INDEX, INDEX_FILE, PARTIAL
from tf_sphereface.data.pack.listing import Listing
from tf_sphereface.utils.files import atomic_path, sha256_file, write_json

# What is known of each record until the index is made.
_ROWS = np.dtype([("position", "<u4"), *((n, "<u4") for n in ("offset", "length", "crc"))])
_CHUNK, _CALL = 1024, 64  # files read ahead, and files that a thread takes at a time
_HEADER, _FRAME = 12, 16  # bytes of a TFRecord before its content, and before and after
JPEG_QUALITY = 95

Encoding = Literal["jpg", "png"]


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """The files of one shard."""

    path: Path
    facts: Path  # what is known of it while packing, as JSON
    rows: Path  # likewise, a `_ROWS` row for each of its records

    @classmethod
    def all(cls, out: Path, shards: int) -> list[ShardFiles]:
        """Return the files of every shard of a pack."""
        return [
            cls(
                out / f"faces-{shard:05d}-of-{shards:05d}.tfrecord",
                out / PARTIAL / f"shard-{shard:05d}.json",
                out / PARTIAL / f"shard-{shard:05d}.npy",
            )
            for shard in range(shards)
        ]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Read and check images; those of another size than `size`, if any, are encoded again.

    `read` returns the bytes of a name in the listing; ValueError, the reason alone: it cannot.
    """

    root: Path
    read: Callable[[str], bytes]
    size: tuple[int, int] | None
    encoding: Encoding
    strict: bool

    def __call__(self, files: Sequence[str]) -> list[tuple[bytes, tuple[int, int]] | str]:
        """Return the bytes and (height, width) of each image, or why it cannot be decoded."""
        return [self._load(file) for file in files]

    def _load(self, file: str) -> tuple[bytes, tuple[int, int]] | str:
        try:
            contents = self.read(file)
            image = decode_image(contents)
        except ValueError as error:
            if self.strict:
                raise ValueError(f"{self.root / file} cannot be decoded: {error}") from error
            return str(error)
        size = (image.shape[0], image.shape[1])
        if self.size is None or size == self.size:
            return contents, size
        return self._encode(resize(image, self.size)), self.size

    def _encode(self, image: NDArray[np.uint8]) -> bytes:
        with tf.device("/cpu:0"):
            if self.encoding == "png":
                encoded = tf.io.encode_png(image)
            else:
                encoded = tf.io.encode_jpeg(image, quality=JPEG_QUALITY, chroma_downsampling=False)
        return bytes(encoded.numpy())


def kept_shard(files: ShardFiles, facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of a shard that is there and whole, else None.

    They are given by a finished pack; without, they are what was noted while packing.
    """
    if facts is None:
        if not (files.facts.is_file() and files.rows.is_file()):
            return None
        noted: dict[str, Any] = json.loads(files.facts.read_text(encoding="utf-8"))
        if noted["rows_sha256"] != sha256_file(files.rows):
            return None
        facts = noted
    if not files.path.is_file() or files.path.stat().st_size != facts["bytes"]:
        return None
    return facts if sha256_file(files.path) == facts["sha256"] else None


def write_shard(
    files: ShardFiles,
    listing: Listing,
    positions: NDArray[np.uint32],
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    """Write the images at `positions` of the listing, in that order, and note where they lie."""
    path = files.path
    rows = np.zeros(len(positions), _ROWS)
    skipped: list[tuple[int, str]] = []
    sizes: set[tuple[int, int]] = set()
    records = end = 0
    try:
        with atomic_path(path) as temporary, tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
            for begin in range(0, len(positions), _CHUNK):
                piece = positions[begin : begin + _CHUNK]
                names = list(listing.files(piece))
                calls = [names[i : i + _CALL] for i in range(0, len(names), _CALL)]
                results = (result for call in pool.map(encoder, calls) for result in call)
                for position, name, result in zip(piece.tolist(), names, results, strict=True):
                    if isinstance(result, str):
                        skipped.append((position, result))
                        continue
                    image, size = result
                    record = _record(image, listing.label(position), name)
                    if end + len(record) + _FRAME >= 1 << 32:
                        raise ValueError(f"shards must be more: {path.name} is beyond 4 GiB")
                    offset = end + _HEADER + record.index(image)
                    rows[records] = (position, offset, len(image), zlib.crc32(image))
                    writer.write(record)
                    sizes.add(size)
                    records += 1
                    end += len(record) + _FRAME
                tell(len(piece))
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message}") from None
    if path.stat().st_size != end:
        raise OSError(f"{path} has {path.stat().st_size:,} bytes instead of {end:,}")
    with atomic_path(files.rows) as temporary:
        np.save(temporary, rows[:records])
    facts = {
        "file": path.name,
        "records": records,
        "bytes": end,
        "sha256": sha256_file(path),
        "rows_sha256": sha256_file(files.rows),
        "sizes": sorted(sizes)[:2],  # one, or more than one
        "skipped": skipped,
    }
    write_json(files.facts, facts)
    return facts


def write_index(
    out: Path, listing: Listing, files: list[ShardFiles], skipped: NDArray[np.int64]
) -> tuple[str, str, str]:
    """Write what finds an image by its position, and return the names of the files.

    `skipped` are sorted positions of the listing that are not there.
    """
    table = np.zeros(len(listing) - len(skipped), INDEX)
    for shard, shard_files in enumerate(files):
        rows = np.load(shard_files.rows)
        places = rows["position"] - np.searchsorted(skipped, rows["position"])
        table["shard"][places] = shard
        for name in ("offset", "length", "crc"):
            table[name][places] = rows[name]
    with atomic_path(out / INDEX_FILE) as temporary:
        np.save(temporary, table)
    left_out = set(skipped.tolist())
    with (
        atomic_path(out / FILES) as temporary,
        temporary.open("wb") as target,
        listing.path.open("rb") as lines,
    ):
        target.writelines(line for place, line in enumerate(lines) if place not in left_out)
    ends = listing.ends - np.searchsorted(skipped, listing.ends)
    counts = np.diff(ends, prepend=0).tolist()
    with atomic_path(out / CLASSES) as temporary:
        pairs = zip(counts, map(os.fsencode, listing.names), strict=True)
        temporary.write_bytes(b"".join(b"%d\t%s\n" % pair for pair in pairs))
    return CLASSES, FILES, INDEX_FILE


def _record(image: bytes, label: int, file: str) -> bytes:
    """Return an image as a serialized `tf.train.Example`, its features sorted by name."""
    person = file.split("/", 1)[0]
    texts = {"image": image, "name": os.fsencode(person), "file": os.fsencode(file)}
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
        for key, text in texts.items()
    }
    feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized
