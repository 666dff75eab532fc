"""Packing: the same bytes whenever it is done, and finished however often it is stopped."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import data
from tf_sphereface.data import synthetic

SIZE = (56, 48)
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "name": tf.io.FixedLenFeature([], tf.string),
    "file": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 5 people with 8 pictures each."""
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 5, 8, size=SIZE)


def content(folder: Path) -> dict[str, str]:
    """Return the hash of each file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(folder: Path) -> list[dict[str, object]]:
    """Read all records with TensorFlow's own reader, which checks TFRecord's checksums."""
    files = [str(path) for path in sorted(folder.glob("*.tfrecord"))]
    parsed = [tf.io.parse_single_example(r, FEATURES) for r in tf.data.TFRecordDataset(files)]
    return [{key: value.numpy() for key, value in example.items()} for example in parsed]


def test_records_hold_the_files_bytes_each_once(root: Path, tmp_path: Path) -> None:
    result = data.pack_folder(root, tmp_path, shards=3)
    assert (result.images, result.classes, result.shards) == (40, 5, 3)
    index = data.scan_folder(root)
    found = {Path(r["file"].decode()): r for r in records(tmp_path)}
    assert len(found) == 40
    for path, label in zip(index.paths, index.labels, strict=True):
        record = found[path.relative_to(root)]
        assert record["image"] == path.read_bytes()
        assert record["label"] == label
        assert record["name"].decode() == path.parent.name
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [shard["records"] for shard in manifest["shards"]] == [13, 13, 14]
    hashes = content(tmp_path)
    assert all(hashes[shard["file"]] == shard["sha256"] for shard in manifest["shards"])
    assert manifest["image_size"] == list(SIZE)


def test_order_on_disk_is_a_shuffle_by_seed(root: Path, tmp_path: Path) -> None:
    orders = []
    for seed in (0, 0, 1):
        target = tmp_path / str(len(orders))
        data.pack_folder(root, target, shards=2, seed=seed)
        orders.append([record["file"] for record in records(target)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != sorted(orders[0])
    assert sorted(orders[0]) == sorted(orders[2])


def test_the_same_folder_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """Elsewhere, written in another order, at another time, with another number of threads."""
    copy = tmp_path / "copy"
    for path in sorted(root.glob("*/*"), reverse=True):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy / path.parent.name / path.name)
    data.pack_folder(root, tmp_path / "one", shards=4, workers=1)
    data.pack_folder(copy, tmp_path / "two", shards=4, workers=3)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_shard_size_chooses_the_number(root: Path, tmp_path: Path) -> None:
    total = sum(path.stat().st_size for path in root.glob("*/*"))
    result = data.pack_folder(root, tmp_path, shard_size=total / 1e6 / 3.5)
    assert result.shards == 4


def test_damaged_files_are_left_out_and_named(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(root, folder)
    files = sorted(folder.glob("*/*.jpg"))
    files[3].write_bytes(files[3].read_bytes()[:-400])
    files[20].write_bytes(b"")
    for path in files[8:16]:  # all of one person
        path.write_bytes(b"no image")
    result = data.pack_folder(folder, tmp_path / "out", shards=3)
    names = [str(path.relative_to(folder)) for path in (files[3], *files[8:16], files[20])]
    assert list(result.skipped) == names
    assert "truncated" in result.skipped[names[0]]
    assert "empty" in result.skipped[names[-1]]
    assert (result.images, result.classes) == (30, 5)
    pack = data.open_pack(tmp_path / "out")
    np.testing.assert_array_equal(np.bincount(pack.labels, minlength=5), [7, 0, 7, 8, 8])
    with pytest.raises(ValueError, match=r"\.jpg cannot be decoded: (truncated|empty)"):
        data.pack_folder(folder, tmp_path / "strict", strict=True)
    with pytest.raises(ValueError, match=r"cannot be decoded: .* was written without it"):
        data.pack_folder(folder, tmp_path / "out", shards=3, strict=True)  # what is there

    def stop(done: int, total: int) -> None:
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        data.pack_folder(folder, tmp_path / "stopped", shards=3, progress=stop)
    with pytest.raises(
        ValueError, match=r"cannot be decoded: .*-of-00003.* was written without it"
    ):
        data.pack_folder(folder, tmp_path / "stopped", shards=3, strict=True)


def test_nothing_but_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "faces" / "one").mkdir(parents=True)
    (tmp_path / "faces" / "one" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 files"):
        data.pack_folder(tmp_path / "faces", tmp_path / "out")


@pytest.mark.parametrize("encoding", ["jpg", "png"])
def test_resize(tmp_path: Path, encoding: str) -> None:
    folder = synthetic.write_folder(tmp_path / "faces", 2, 3)
    small = synthetic.faces(7, 0, size=SIZE)[0]
    (folder / "small").mkdir()
    cv2.imwrite(str(folder / "small" / "1.png"), small[..., ::-1])
    mixed = data.pack_folder(folder, tmp_path / "mixed")
    assert data.open_pack(mixed.path).image_size is None
    with pytest.raises(ValueError, match="holds images of several sizes, expected 56x48"):
        data.face_dataset(mixed.path, image_size=SIZE, batch_size=2)
    result = data.pack_folder(folder, tmp_path / "out", resize=SIZE, encoding=encoding)
    pack = data.open_pack(result.path)
    assert pack.image_size == SIZE
    assert pack.read(np.array([6]))[0] == (folder / "small" / "1.png").read_bytes()
    settings = {"image_size": SIZE, "batch_size": 7, "augment": "none", "shuffle": False}
    ((images, _),) = data.face_dataset(pack, **settings)
    ((expected, _),) = data.face_dataset(folder, resize=True, **settings)
    if encoding == "png":
        np.testing.assert_array_equal(images, expected)
    else:  # quality 95: two grey levels on average
        assert np.abs(images - expected).mean() * 128 < 2.0


# ----- stopped and gone on


class Stop(Exception):
    """The process dies here."""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stopped_pack_goes_on_to_the_same_bytes(root: Path, tmp_path: Path, at: int) -> None:
    data.pack_folder(root, tmp_path / "whole", shards=5)

    def stop(done: int, total: int) -> None:
        if done == 8 * (at + 1):
            raise Stop

    with pytest.raises(Stop):
        data.pack_folder(root, tmp_path / "out", shards=5, progress=stop)
    with pytest.raises(FileNotFoundError, match="not packed to the end"):
        data.open_pack(tmp_path / "out")
    assert data.is_pack(tmp_path / "out")
    steps: list[tuple[int, int]] = []
    result = data.pack_folder(
        root, tmp_path / "out", shards=5, progress=lambda *step: steps.append(step)
    )
    assert result.kept_shards == at
    assert steps[-1] == (40, 40)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_was_finished_is_verified(root: Path, tmp_path: Path) -> None:
    data.pack_folder(root, tmp_path / "whole", shards=5)

    def stop(done: int, total: int) -> None:
        if done == 32:
            raise Stop

    with pytest.raises(Stop):
        data.pack_folder(root, tmp_path / "out", shards=5, progress=stop)
    first, second, _third = sorted((tmp_path / "out").glob("*.tfrecord"))
    flip(first, 700)
    second.write_bytes(second.read_bytes()[:-5])
    (tmp_path / "out" / ".index.npy.abc").mkdir()  # left by a killed process
    assert data.pack_folder(root, tmp_path / "out", shards=5).kept_shards == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def flip(path: Path, place: int) -> None:
    """Change one byte of a file."""
    bytes_ = bytearray(path.read_bytes())
    bytes_[place] ^= 1
    path.write_bytes(bytes_)


@pytest.mark.parametrize("name", ["faces-00001-of-00003.tfrecord", "index.npy", "classes.tsv"])
def test_packing_again_repairs(root: Path, tmp_path: Path, name: str) -> None:
    data.pack_folder(root, tmp_path, shards=3)
    before = content(tmp_path)
    assert data.pack_folder(root, tmp_path, shards=3).kept_shards == 3
    flip(tmp_path / name, 7)
    assert content(tmp_path) != before
    result = data.pack_folder(root, tmp_path, shards=3)
    assert result.kept_shards == (2 if "faces" in name else 0)
    assert content(tmp_path) == before


# ----- refused


def test_another_input_or_options_are_refused(root: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "faces", tmp_path / "out"
    shutil.copytree(root, folder)
    data.pack_folder(folder, out, shards=3)
    before = content(out)
    with pytest.raises(ValueError, match="seed was 0, now 1; resize was None"):
        data.pack_folder(folder, out, shards=3, seed=1, resize=(28, 24))
    next(folder.glob("*/*.jpg")).unlink()
    with pytest.raises(ValueError, match="names or sizes in the source are not the same"):
        data.pack_folder(folder, out, shards=3)
    assert content(out) == before


def test_a_folder_of_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"target must be empty.*thesis\.tex"):
        data.pack_folder(root, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        data.pack_folder(root, tmp_path / "thesis.tex")
    with pytest.raises(ValueError, match="target must lie outside of source"):
        data.pack_folder(root, root / "packed")
    assert not (root / "packed").exists()


def test_a_full_disk_costs_nothing_that_was_finished(root: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands in for the disk's."""
    data.pack_folder(root, tmp_path / "whole", shards=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"faces-00000-of-00002\.tfrecord cannot be written"):
            data.pack_folder(root, tmp_path / "out", shards=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").glob("*faces*"))
    data.pack_folder(root, tmp_path / "out", shards=2)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 0}, "`shards` must be"),
        ({"shards": 41}, "number of images, 40"),
        ({"shard_size": 0}, "`shard_size` must be"),
        ({"shard_size": 5000}, "`shard_size` must be"),
        ({"shard_size": 1e-7}, "`shard_size` must be from 0.000001, which is a byte"),
        ({"shard_size": float("nan")}, "`shard_size` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"resize": (0, 5)}, "`resize` must be"),
        ({"encoding": "gif"}, "`encoding` must be one of 'jpg', 'png'"),
    ],
)
def test_wrong_arguments_are_named(
    root: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        data.pack_folder(root, tmp_path / "out", **settings)
    assert "Received" in str(error.value)
