"""Reading a pack: the folder's own batches, from any step, by any number of workers."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.data.comparing import SIZE, assert_equal, batches
from tf_sphereface import data
from tf_sphereface.data import synthetic
from tf_sphereface.data.pack import reading


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 5 people with 8 pictures each; one file is damaged, so 39 are good."""
    folder = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 5, 8, size=SIZE)
    sorted(folder.glob("*/*.jpg"))[10].write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def packed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder, packed into three shards. To be read only."""
    return data.pack_folder(root, tmp_path_factory.mktemp("packed"), shards=3).path


@pytest.fixture
def broken(packed: Path, tmp_path: Path) -> Path:
    """A copy of the pack, to be spoilt."""
    return Path(shutil.copytree(packed, tmp_path / "broken"))


def shards_of(path: Path) -> list[Path]:
    return sorted(path.glob("*.tfrecord"))


# ----- the same batches


@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_those_of_the_folder(
    root: Path, packed: Path, drop_remainder: bool, shuffle: bool
) -> None:
    settings = {
        "image_size": SIZE, "batch_size": 12, "augment": "strong", "seed": 7, "repeat": True,
        "shuffle": shuffle, "drop_remainder": drop_remainder, "channel_order": "bgr",
    }  # fmt: skip
    expected = batches(data.face_dataset(root, **settings).take(9))
    assert_equal(batches(data.face_dataset(packed, **settings).take(9)), expected)
    assert_equal(batches(data.face_dataset(packed, **settings).take(9)), expected)


def test_batches_do_not_depend_on_how_it_was_packed(
    root: Path, packed: Path, tmp_path: Path
) -> None:
    other = data.pack_folder(root, tmp_path, shards=7, seed=5).path
    settings = {"image_size": SIZE, "batch_size": 13}
    one, two = (batches(data.face_dataset(path, **settings)) for path in (packed, other))
    assert_equal(one, two)


def test_resize(root: Path, packed: Path) -> None:
    settings = {"image_size": (28, 24), "batch_size": 13, "augment": "none"}
    with pytest.raises(ValueError, match="holds images of 56x48 pixels, expected 28x24"):
        data.face_dataset(packed, **settings)
    expected = batches(data.face_dataset(root, resize=True, **settings))
    assert_equal(batches(data.face_dataset(packed, resize=True, **settings)), expected)


def test_static_shapes_and_cardinality(packed: Path) -> None:
    settings = {"image_size": SIZE, "batch_size": 8, "num_shards": 2}
    dataset = data.face_dataset(packed, **settings)
    assert dataset.element_spec[0].shape == (4, *SIZE, 3)
    assert dataset.element_spec[1] == tf.TensorSpec((4,), tf.int32)
    assert dataset.cardinality() == 39 // 8
    endless = data.face_dataset(packed, repeat=True, **settings)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY


def test_an_epoch_is_an_exact_permutation(packed: Path) -> None:
    """Every image once in each of three epochs, in three orders; 39 images, no two alike."""
    dataset = data.face_dataset(
        packed, image_size=SIZE, batch_size=39, augment="none", repeat=True, seed=2
    )
    epochs = [[image.tobytes() for image in images] for images, _ in batches(dataset.take(3))]
    assert all(len(set(epoch)) == 39 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3


# ----- from any step


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_start_step_continues_bit_for_bit(packed: Path, drop_remainder: bool) -> None:
    settings = {
        "image_size": SIZE, "batch_size": 12, "augment": "strong", "seed": 11, "repeat": True,
        "drop_remainder": drop_remainder,
    }  # fmt: skip
    full = batches(data.face_dataset(packed, **settings).take(10))
    for start in (1, 3, 4, 8):
        tail = data.face_dataset(packed, start_step=start, **settings).take(10 - start)
        assert_equal(batches(tail), full[start:])


def test_start_step_reads_nothing_before(packed: Path) -> None:
    pack = data.open_pack(packed)
    read: list[int] = []
    counted = CountingPack(pack, read)
    settings = {"image_size": SIZE, "batch_size": 13, "shuffle": False, "augment": "none"}
    tail = batches(data.face_dataset(counted, start_step=2, **settings))
    assert sorted(read) == list(range(26, 39))
    assert_equal(tail, batches(data.face_dataset(pack, **settings))[2:])


def CountingPack(pack: data.Pack, read: list[int]) -> data.Pack:  # noqa: N802
    class Counting(data.Pack):
        def read(self, positions: np.ndarray) -> np.ndarray:
            read.extend(positions.tolist())
            return super().read(positions)

    return Counting(pack.root, pack.manifest, pack.names, pack.ends, pack.table)


def test_a_far_step_is_as_near_as_the_first(packed: Path) -> None:
    dataset = data.face_dataset(
        packed, image_size=SIZE, batch_size=13, repeat=True, start_step=3 * 10**9 + 1
    )
    (images, _), *_ = batches(dataset.take(1))
    assert images.shape == (13, *SIZE, 3)


# ----- several workers


@pytest.mark.parametrize(("workers", "drop_remainder"), [(2, True), (3, True), (3, False)])
def test_workers_together_see_the_global_batches(
    packed: Path, workers: int, drop_remainder: bool
) -> None:
    settings = {
        "image_size": SIZE, "batch_size": 12, "augment": "strong", "seed": 3, "repeat": True,
        "drop_remainder": drop_remainder, "start_step": 2,
    }  # fmt: skip
    whole = batches(data.face_dataset(packed, **settings).take(6))
    parts = [
        batches(data.face_dataset(packed, shard_index=i, num_shards=workers, **settings).take(6))
        for i in range(workers)
    ]
    joined = [
        tuple(np.concatenate(arrays) for arrays in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)


def test_input_context_yields_the_batches_of_replicas(packed: Path) -> None:
    """Two workers of two replicas: each step of a worker is two batches, in the global order."""
    settings = {"image_size": SIZE, "batch_size": 12, "augment": "strong"}
    whole = batches(data.face_dataset(packed, **settings))
    workers = [
        batches(
            data.face_dataset(packed, input_context=tf.distribute.InputContext(2, i, 4), **settings)
        )
        for i in range(2)
    ]
    assert [len(images) for images, _ in workers[0]] == [3] * 2 * len(whole)
    for step, (images, labels) in enumerate(whole):
        mine = [worker[2 * step + replica] for worker in workers for replica in range(2)]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in mine]), images)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in mine]), labels)


def test_distributes_over_two_replicas(
    packed: Path, two_replicas: tf.distribute.MirroredStrategy
) -> None:
    settings = {"image_size": SIZE, "batch_size": 12}
    distributed = two_replicas.distribute_datasets_from_function(
        lambda context: data.face_dataset(packed, input_context=context, **settings)
    )
    seen = [
        np.concatenate([part.numpy() for part in two_replicas.experimental_local_results(labels)])
        for _, labels in distributed
    ]
    expected = [labels for _, labels in batches(data.face_dataset(packed, **settings))]
    np.testing.assert_array_equal(seen, expected)


# ----- damage


def spoil(pack: data.Pack, row: int) -> tuple[str, str]:
    """Change a byte in the middle of an image; return its file and its record."""
    shard, offset, length, _ = pack.table[row].tolist()
    path = pack.shard_path(shard)
    content = bytearray(path.read_bytes())
    content[offset + length // 2] ^= 4
    path.write_bytes(content)
    return pack.describe([row])[0]


def test_a_corrupt_record_is_named_when_it_is_read(broken: Path) -> None:
    file, record = spoil(data.open_pack(broken), 17)
    assert file == f"Person_000002/{Path(file).name}"  # 39 good files: number 17 is the 18th
    dataset = data.face_dataset(broken, image_size=SIZE, batch_size=13, strict=True)
    message = f"{record} .{file}. is damaged: its checksum differs"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        batches(dataset)


def test_corrupt_records_are_left_out_and_counted(broken: Path) -> None:
    pack = data.open_pack(broken)
    places = [spoil(pack, row) for row in (0, 17, 38)]
    report, steps = data.SkipReport(), []
    settings = {"image_size": SIZE, "batch_size": 12, "augment": "none", "shuffle": False}
    dataset = data.face_dataset(
        broken, report=report, progress=lambda *s: steps.append(s), **settings
    )
    assert steps[-1] == (39, 39)
    assert dataset.cardinality() == 3
    assert {str(p): r for p, r in report.reasons.items()} == {
        file: f"{record}: its checksum differs" for file, record in places
    }
    good = data.open_pack(broken, errors="skip")
    assert len(good) == 36
    kept = np.delete(np.arange(39), (0, 17, 38))
    np.testing.assert_array_equal(good.labels, pack.labels[kept])
    labels = np.concatenate([labels for _, labels in batches(dataset)])
    np.testing.assert_array_equal(labels, pack.labels[kept])
    assert_equal(batches(data.face_dataset(good, **settings)), batches(dataset))


def test_a_truncated_shard(broken: Path) -> None:
    pack = data.open_pack(broken)
    shard = shards_of(broken)[1]
    rows = pack.records(1)
    cut = int(pack.table["offset"][rows[9]]) + 5
    shard.write_bytes(shard.read_bytes()[:cut])
    (file, record), *_ = pack.describe([int(rows[9])])
    assert record == f"record 9 of {shard.name}"
    with pytest.raises(ValueError, match=rf"4 records are lost, first {record} \({file}\)"):
        data.face_dataset(broken, image_size=SIZE, batch_size=13, strict=True)
    report = data.SkipReport()
    assert len(data.open_pack(broken, errors="skip", report=report)) == 35
    assert report.reasons[Path(file)] == f"{record}: the shard ends before it"
    found = data.check_pack(broken)
    assert len(found.records) == 4
    assert found.files == {
        shard.name: "its checksum differs; TFRecord cannot be read past record 9"
    }


def test_a_missing_shard(broken: Path) -> None:
    shards_of(broken)[0].unlink()
    with pytest.raises(ValueError, match=r"00000-of-00003.* is missing: 12 records are lost"):
        data.open_pack(broken)
    report = data.SkipReport()
    assert len(data.open_pack(broken, errors="skip", report=report)) == 27
    assert set(report.reasons.values()) == {
        f"record {i} of faces-00000-of-00003.tfrecord: the shard is missing" for i in range(12)
    }
    for path in shards_of(broken):
        path.unlink()
    with pytest.raises(ValueError, match="none of the 39 records"):
        data.open_pack(broken, errors="skip")


def test_check_finds_what_reading_cannot(broken: Path) -> None:
    """A byte of a record's label: no image is damaged, but the shard's checksum says so."""
    assert data.check_pack(broken).ok
    shard = shards_of(broken)[2]
    content = bytearray(shard.read_bytes())
    content[content.index(b"label") + 1] ^= 1
    shard.write_bytes(content)
    found = data.check_pack(broken)
    assert not found.ok
    assert found.records == {}
    assert "TFRecord cannot be read past record 0" in found.files[shard.name]
    lines = (broken / "files.txt").read_text()
    (broken / "files.txt").write_text(lines.replace("Person_000001", "Person_00000X"))
    assert found.files.keys() | {"files.txt"} == data.check_pack(broken).files.keys()


def test_another_version_is_refused(broken: Path) -> None:
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(ValueError, match=r"format version 1 is expected. Received: 2"):
        data.open_pack(broken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"{", "manifest.json is damaged"),
        ("manifest.json", b"[]", "does not describe a packed folder"),
        ("manifest.json", b'{"format": "tf_sphereface-pack", "version": 1}', "images, .* missing"),
        ("index.npy", b"", "is damaged"),
        ("classes.tsv", b"5\tA\n", "do not belong together"),
        ("classes.tsv", b"five\tA\n", "is damaged"),
    ],
)
def test_a_damaged_frame_is_refused(broken: Path, name: str, content: bytes, message: str) -> None:
    (broken / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.open_pack(broken)


def test_what_is_no_pack(root: Path, broken: Path) -> None:
    assert data.is_pack(broken)
    assert not data.is_pack(root)
    assert not data.is_pack((np.zeros(3), np.zeros(3)))
    other = broken / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "some other program"}')
    assert not data.is_pack(other)
    with pytest.raises(FileNotFoundError, match="must be a packed folder"):
        data.open_pack(root)
    with pytest.raises(ValueError, match=r"`errors` must be one of 'raise', 'skip'\. Received"):
        data.open_pack(broken, errors="ignore")
    (broken / "index.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.npy is missing"):
        data.open_pack(broken)


# ----- files and threads


def test_threads_share_few_open_files(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_OPEN_SHARDS", 1)
    pack = data.open_pack(packed)
    expected = pack.read(np.arange(39)).tolist()
    orders = [np.random.default_rng(i).permutation(39) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for order, found in zip(orders, pool.map(pack.read, orders), strict=True):
            assert found.tolist() == [expected[i] for i in order]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shards": 0}, "`num_shards` must be"),
        ({"num_shards": 2, "shard_index": 2}, "`shard_index` must be an integer from 0 to 1"),
        ({"num_shards": 3}, "`batch_size` must be a multiple of the 3 workers"),
        ({"batch_size": 40}, "`batch_size` must not exceed the number of images, 39"),
        ({"augment": "heavy"}, "`augment` must be one of"),
        ({"input_context": tf.distribute.InputContext(1, 0, 3)}, "1 workers and 3 replicas"),
        (
            {"input_context": tf.distribute.InputContext(), "drop_remainder": False},
            "`drop_remainder` must be set",
        ),
        (
            {"input_context": tf.distribute.InputContext(), "num_shards": 2},
            "`num_shards` must be left out",
        ),
    ],
)
def test_wrong_arguments_are_named(packed: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        data.face_dataset(packed, **{"image_size": SIZE, "batch_size": 8, **settings})
    assert "Received" in str(error.value)
