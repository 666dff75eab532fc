"""Decoded faces that are kept in memory or in a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.data.comparing import SIZE, assert_equal, batches
from tf_sphereface import data
from tf_sphereface.data import synthetic


@pytest.mark.parametrize("augment", ["none", "mirror", "strong"])
def test_memory_disk_and_stream_give_the_same_batches(
    damaged: tuple[Path, dict[str, str]], tmp_path: Path, augment: str
) -> None:
    folder, _ = damaged

    def make(cache: str | Path) -> list[tuple[np.ndarray, np.ndarray]]:
        report = data.SkipReport()
        dataset = data.face_dataset(
            folder, image_size=SIZE, batch_size=8, augment=augment, seed=5, cache=cache,
            report=report,
        )  # fmt: skip
        assert report.count == 5
        assert dataset.cardinality() == 35 // 8
        return batches(dataset)

    memory = make("memory")
    assert_equal(memory, make("none"))
    assert_equal(memory, make(tmp_path / "cache"))
    assert_equal(memory, make(tmp_path / "cache"))


def test_a_full_disk_is_an_error_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    """Faces that are written through a mapping would kill the process instead."""
    code = (
        "import resource, signal, sys\n"
        "from tf_sphereface import data\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"  # then writing fails, as on a full disk
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "data.face_dataset(sys.argv[1], image_size=(56, 48), batch_size=4, cache=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "OSError" in result.stderr
    assert not list(tmp_path.iterdir())


def test_disk_cache_is_used_again_and_made_again_when_stale(root: Path, tmp_path: Path) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 3, size=SIZE)
    calls: list[int] = []

    def make() -> list[tuple[np.ndarray, np.ndarray]]:
        calls.append(0)
        dataset = data.face_dataset(
            folder, image_size=SIZE, batch_size=6, cache=tmp_path / "cache.npy",
            progress=lambda done, total: calls.__setitem__(-1, done),
        )  # fmt: skip
        return batches(dataset)

    first, second = make(), make()
    assert calls == [6, 0]
    assert_equal(first, second)
    changed = sorted(folder.glob("*/*.jpg"))[0]
    changed.write_bytes(next(root.glob("*/*0008.jpg")).read_bytes())
    third = make()
    assert calls == [6, 0, 6]
    assert any(np.any(a[0] != b[0]) for a, b in zip(first, third, strict=True))


def cached(folder: Path, path: Path, **options: object) -> tf.data.Dataset:
    return data.face_dataset(folder, image_size=SIZE, batch_size=2, cache=path, **options)


def test_the_disk_cache_is_the_files_that_its_path_names(tmp_path: Path) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    out = tmp_path / "c"
    out.mkdir()
    (out / "faces.json").write_text('{"mine": 1}')
    (out / "faces.npy").write_text("mine")
    for _ in range(2):
        cached(folder, out / "faces.cache")
    names = ["faces.cache.json", "faces.cache.npy", "faces.json", "faces.npy"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "faces.json").read_text() == '{"mine": 1}'
    assert (out / "faces.npy").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"x.json": '{"mine": 1}'}, "x.json"),
        ({"x.json": '["key"]', "x.npy": ""}, "x.json"),
        ({"x.json": "{", "x.npy": "1"}, "x.json"),
        ({"x.npy": "1"}, "x.npy"),
    ],
)
def test_a_file_that_is_no_cache_stays(tmp_path: Path, files: dict[str, str], named: str) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    out = tmp_path / "c"
    out.mkdir()
    for name, content in files.items():
        (out / name).write_text(content)
    with pytest.raises(ValueError, match=rf"cache must be .*Received: \S*{named}, which is some"):
        cached(folder, out / "x")
    assert {path.name: path.read_text() for path in out.iterdir()} == files


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b""])
def test_a_damaged_cache_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    cached(folder, tmp_path / "x")
    faces = tmp_path / "x.npy"
    faces.write_bytes(damage(faces.read_bytes()))
    with pytest.raises(ValueError, match=r"x\.npy, which is something else, or damaged"):
        cached(folder, tmp_path / "x")


def test_a_cache_that_was_being_made_is_made_again(tmp_path: Path) -> None:
    """Killed between its two files, or before the first: no other one is to be feared for."""
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    whole = batches(cached(folder, tmp_path / "x"))
    side = tmp_path / "x.json"
    side.write_text('{"key": null, "labels": [], "skipped": {}}')
    assert_equal(batches(cached(folder, tmp_path / "x")), whole)
    (tmp_path / "x.npy").unlink()
    assert_equal(batches(cached(folder, tmp_path / "x")), whole)


def test_a_cache_that_cannot_be_made_anew_stays_whole(tmp_path: Path) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=SIZE)
    next(folder.glob("*/*.jpg")).write_bytes(b"no image")
    cached(folder, tmp_path / "x")
    files = {path: path.read_bytes() for path in (tmp_path / "x.npy", tmp_path / "x.json")}
    with pytest.raises(ValueError, match="cannot be decoded: truncated or not an image"):
        cached(folder, tmp_path / "x", strict=True)
    assert {path: path.read_bytes() for path in files} == files


def test_a_checked_index_is_not_decoded_twice(root: Path) -> None:
    index = data.check_folder(root, image_size=SIZE)
    assert index.checked
    calls: list[int] = []
    for size, expected in ((SIZE, 0), ((28, 24), 1)):
        data.face_dataset(
            index, image_size=size, batch_size=4, cache="none", resize=True,
            progress=lambda done, total: calls.append(done),
        )  # fmt: skip
        assert len(calls) == expected
