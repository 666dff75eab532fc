"""Listing many files: in order, and in little memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.data.pack.listing import write_listing

NAMES = {"b": ["2.jpg", "10.jpg"], "a": ["x.png"], "ö": ["ü.jpg", "a b.bmp", "z.JPEG"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for person, files in NAMES.items():
        (tmp_path / person).mkdir()
        for size, name in enumerate(files):
            (tmp_path / person / name).write_bytes(b"x" * size)
    return tmp_path


def expected(root: Path) -> list[Path]:
    return [root / person / name for person in sorted(NAMES) for name in sorted(NAMES[person])]


def test_paths_are_a_sequence_like_a_list(folder: Path) -> None:
    index = data.scan_folder(folder)
    paths, labels, names = index.paths, index.labels, index.names
    whole = expected(folder)
    assert names == ["a", "b", "ö"]
    assert labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert paths == whole
    assert list(paths) == whole
    assert [paths[i] for i in range(-6, 6)] == whole * 2
    assert paths[1:4] == whole[1:4]
    assert paths[::-2] == whole[::-2]
    assert paths != whole[:-1]
    assert whole[3] in paths
    with pytest.raises(IndexError):
        paths[6]


def test_select_twice(folder: Path) -> None:
    paths = data.scan_folder(folder).paths
    whole = expected(folder)
    some = paths.select(np.array([1, 0, 1, 1, 0, 1], bool))
    assert some == [whole[i] for i in (0, 2, 3, 5)]
    assert some.select(np.array([0, 1, 0, 1], bool)) == [whole[i] for i in (2, 5)]


def test_a_list_on_disk_is_the_list_in_memory(folder: Path, tmp_path_factory) -> None:
    target = tmp_path_factory.mktemp("list") / "listing.txt"
    listing = write_listing(folder, target, PassedOver())
    index = data.scan_folder(folder)
    paths, labels, names = index.paths, index.labels, index.names
    places = np.array([5, 0, 2, 3, 1, 4])
    assert [folder / file for file in listing.files(places)] == [paths[i] for i in places]
    assert [listing.label(i) for i in range(6)] == labels.tolist()
    assert listing.names == names
    assert listing.size == sum(path.stat().st_size for path in paths)
    before = listing.fingerprint
    assert write_listing(folder, target, PassedOver()).fingerprint == before
    paths[0].write_bytes(b"longer")
    assert write_listing(folder, target, PassedOver()).fingerprint != before


def test_a_line_break_in_a_name_is_named(folder: Path, tmp_path_factory) -> None:
    (folder / "b" / "1\n.jpg").write_bytes(b"")
    target = tmp_path_factory.mktemp("list") / "listing.txt"
    with pytest.raises(ValueError, match="b has a line break"):
        write_listing(folder, target, PassedOver())
    assert not list(target.parent.iterdir())


class Scan:
    """What `os.scandir` returns, of a folder that does not exist."""

    def __init__(self, names: Iterator[str], is_dir: bool) -> None:
        self.names, self.is_dir = names, is_dir

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[SimpleNamespace]:
        for name in self.names:
            yield SimpleNamespace(
                name=name,
                is_dir=lambda: self.is_dir,
                is_symlink=lambda: False,
                is_file=lambda: not self.is_dir,
                stat=lambda: SimpleNamespace(st_size=6000),
            )


def peak(people: int, images: int, root: Path, work: Callable[[], object]) -> int:
    """Return the most memory that Python and NumPy held while they list what is not there."""

    real = os.scandir

    def scandir(path: str | os.PathLike[str] | int) -> Any:
        path = path if isinstance(path, int) else Path(path)
        if path == root:
            return Scan((f"Person_{i:07d}" for i in range(people)), True)
        if isinstance(path, Path) and path.parent == root:
            return Scan((f"{i:06d}.jpg" for i in range(images)), False)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        tracemalloc.start()
        try:
            held = work()
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert held is not None
    return most


def test_memory_of_a_list_grows_by_the_name_and_few_bytes(tmp_path: Path) -> None:
    """Ten-letter names: 10 bytes, 8 for the end and 4 for the label, and 20 while it is made."""
    work = lambda: data.scan_folder(tmp_path)  # noqa: E731
    small, large = (peak(people, 100, tmp_path, work) for people in (200, 600))
    assert (large - small) / 40_000 < 50


def test_memory_of_a_list_on_disk_grows_with_people_alone(tmp_path: Path) -> None:
    """A name and a count a person, at 100 images each; nothing an image."""
    root = tmp_path / "faces"
    root.mkdir()
    work = lambda: write_listing(root, tmp_path / "listing.txt", PassedOver())  # noqa: E731
    small, large = (peak(people, 100, root, work) for people in (200, 600))
    assert (large - small) / 40_000 < 3
