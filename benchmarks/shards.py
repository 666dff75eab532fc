"""Images per second from a folder, a pack and a .rec file of it; the cost of millions.

Rates are per second of CPU time, of all threads together: what one core does, busy machine or not.

python benchmarks/shards.py                 both sizes, all three in turns, median of 5
python benchmarks/shards.py --millions 10   an index of ten million rows over a few records
python benchmarks/shards.py --records 5     the scan of a .rec file of five million small images
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface import data
from tf_sphereface.data import synthetic
from tf_sphereface.data.pack.listing import write_listing
from tf_sphereface.data.recordio.framing import frames
from tf_sphereface.data.recordio.image_header import image_header

BATCH, BATCHES, ROUNDS = 128, 60, 5


def speed(dataset: tf.data.Dataset) -> float:
    """Return images per second of CPU time, over all threads of this process."""
    iterator = iter(dataset)
    for _ in range(10):
        next(iterator)
    start = time.process_time()
    for _ in range(BATCHES):
        next(iterator)
    return BATCH * BATCHES / (time.process_time() - start)


def decoding(encoded: NDArray[np.object_]) -> float:
    """Return images per second of CPU time of OpenCV's decoder alone."""
    start = time.process_time()
    for image in encoded:
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    return len(encoded) / (time.process_time() - start)


def compare(folder: Path, size: tuple[int, int]) -> None:
    """Measure one size: folder, pack and .rec take turns, so that a busy machine hits them all."""
    faces = synthetic.write_folder(folder / "faces", 100, 30, size=size)
    start = time.process_time()
    packed = data.pack_folder(faces, folder / "packed", shards=4)
    print(f"{size[0]}x{size[1]}: packed {packed.images / (time.process_time() - start):,.0f}/s")
    index, pack = data.check_folder(faces, image_size=size), data.open_pack(packed.path)
    records = data.open_rec(data.write_rec(faces, folder / "rec").path)
    settings = {"image_size": size, "batch_size": BATCH, "repeat": True}
    rates: dict[str, list[float]] = {
        name: [] for name in ("folder", "pack", "rec", "pack, uint8", "decoding alone")
    }
    encoded = pack.read(np.arange(len(pack)))
    for _ in range(ROUNDS):
        rates["folder"].append(speed(data.face_dataset(index, cache="none", **settings)))
        rates["pack"].append(speed(data.face_dataset(pack, **settings)))
        rates["rec"].append(speed(data.face_dataset(records, **settings)))
        rates["pack, uint8"].append(speed(data.face_dataset(pack, dtype="uint8", **settings)))
        rates["decoding alone"].append(decoding(encoded))
    for name, values in rates.items():
        print(f"  {name:14s} {statistics.median(values):8,.0f} images/s")
    for one, other in (("pack", "folder"), ("rec", "pack"), ("pack, uint8", "decoding alone")):
        ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"  {one} / {other}: {statistics.median(ratios):.2f} {spread}")
    order = np.random.default_rng(0).permutation(len(pack)).astype(np.int64)
    for name, source in (("pack, with checksums", pack), ("rec", records)):
        start = time.process_time()
        for begin in range(0, len(order), BATCH):
            source.read(order[begin : begin + BATCH])
        rate = len(order) / (time.process_time() - start)
        print(f"  reading alone, {name}: {rate:,.0f} images/s")


def many(folder: Path, count: int) -> None:
    """Make a pack of `count` images that are all among a few, and read from it."""
    size = (56, 48)
    faces = synthetic.write_folder(folder / "faces", 100, 10, size=size)
    path = data.pack_folder(faces, folder / "packed").path
    table = np.load(path / "index.npy")
    table = table[np.arange(count) * len(table) // count]
    np.save(path / "index.npy", table)
    (path / "classes.tsv").write_text(
        "".join(f"{count // 100}\tPerson_{i:06d}\n" for i in range(100))
    )
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"images": count}))
    print(f"{count:,} images: index of {(path / 'index.npy').stat().st_size / 1e6:,.0f} MB")
    del table
    settings = {"image_size": size, "batch_size": BATCH, "repeat": True}
    settings["strict"] = True  # no reading of all records before the first batch
    next(iter(data.face_dataset(path, shuffle=False, **settings)))  # what TensorFlow takes itself
    steps = count // BATCH
    for step in (0, steps // 2, 10 * steps - 1):
        before, start = memory(), time.perf_counter()
        dataset = data.face_dataset(path, start_step=step, **settings)
        next(iter(dataset))
        print(
            f"  first batch from step {step:,}: {seconds(start):.1f} s, peak memory "
            f"{before:,.0f} -> {memory():,.0f} MB"
        )
    rate = statistics.median(speed(data.face_dataset(path, **settings)) for _ in range(ROUNDS))
    print(f"  {rate:,.0f} images/s")


def scanned(folder: Path, count: int) -> None:
    """Write a .rec file of `count` records that repeat a few images; scan it, and open it again."""
    size, block = (56, 48), 1000
    images, _ = synthetic.training_set(8, 1, size=size)
    encoded = [bytes(tf.io.encode_jpeg(image, quality=60).numpy()) for image in images]
    path = folder / "train.rec"
    with path.open("wb") as handle:
        for begin in range(0, count, block):
            records = (
                frames(image_header(number // 50, number) + encoded[number % 8])
                for number in range(begin, min(begin + block, count))
            )
            handle.write(b"".join(records))
    print(f"{count:,} records, {path.stat().st_size / 1e9:.1f} GB")
    settings = {"image_size": size, "batch_size": BATCH, "repeat": True, "strict": True}
    next(iter(data.face_dataset(synthetic.training_set(3, 50, size=size), image_size=size)))
    for name in ("scanned", "opened again"):
        before, start, cpu = memory(), time.perf_counter(), time.process_time()
        records = data.open_rec(path)
        print(
            f"  {name}: {seconds(start):.1f} s ({time.process_time() - cpu:.1f} s of CPU time), "
            f"peak memory {before:,.0f} -> {memory():,.0f} MB"
        )
    before, start = memory(), time.perf_counter()
    next(iter(data.face_dataset(records, start_step=count // BATCH // 2, **settings)))
    print(
        f"  first batch, in the middle of an epoch: {seconds(start):.1f} s, peak memory "
        f"{before:,.0f} -> {memory():,.0f} MB"
    )


class Entry:
    """An `os.DirEntry` of something that does not exist."""

    __slots__ = ("folder", "name")

    def __init__(self, name: str, folder: bool) -> None:
        self.name, self.folder = name, folder

    def is_dir(self) -> bool:
        """Tell whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Tell whether it is a file."""
        return not self.folder

    def stat(self) -> SimpleNamespace:
        """Return its size."""
        return SimpleNamespace(st_size=6000)


def listing(folder: Path, count: int) -> None:
    """List `count` files of people with 100 each, by a simulated `os.scandir`."""
    root, scandir = folder / "faces", os.scandir
    root.mkdir()

    @contextlib.contextmanager
    def simulated(path: Path) -> Iterator[Iterator[Any]]:
        if path == root:
            yield (Entry(f"Person_{i:07d}", True) for i in range(count // 100))
        elif isinstance(path, Path) and path.parent == root:
            yield (Entry(f"{i:06d}.jpg", False) for i in range(100))
        else:
            with scandir(path) as entries:
                yield entries

    with mock.patch("os.scandir", simulated):
        for name, work in (
            ("pack's list on disk", lambda: write_listing(root, folder / "listing.txt")),
            ("scan_folder", lambda: data.scan_folder(root)),
        ):
            before, start = memory(), time.process_time()
            files = len(work())
            print(
                f"{name}: {files:,} files, {time.process_time() - start:.1f} s of CPU time, peak "
                f"memory {before:,.0f} -> {memory():,.0f} MB"
            )


def seconds(start: float) -> float:
    """Return the seconds since `start`."""
    return time.perf_counter() - start


def memory() -> float:
    """Return the most memory this process has held, in MB; NaN on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=0.0)
    parser.add_argument("--list", type=float, default=0.0)
    parser.add_argument("--records", type=float, default=0.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.millions:
            many(Path(folder), int(arguments.millions * 1e6))
            return
        if arguments.records:
            scanned(Path(folder), int(arguments.records * 1e6))
            return
        if arguments.list:
            listing(Path(folder), int(arguments.list * 1e6))
            return
        for size in ((56, 48), (112, 96)):
            compare(Path(folder, str(size[0])), size)


if __name__ == "__main__":
    main()
