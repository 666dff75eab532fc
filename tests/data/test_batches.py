"""tf.data of faces: which batches come, in which order, mirrored how, and continued where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def test_static_shapes_and_types(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    for augment in ("none", "mirror", "strong"):
        dataset = data.face_dataset(arrays, image_size=SIZE, batch_size=8, augment=augment)
        images, labels = dataset.element_spec
        assert images.shape == (8, *SIZE, 3)
        assert images.dtype == tf.float32
        assert labels.shape == (8,)
        assert labels.dtype == tf.int32


def test_streamed_shapes_are_static(root: Path, tmp_path: Path) -> None:
    for cache in ("none", tmp_path / "cache"):
        dataset = data.face_dataset(root, image_size=SIZE, batch_size=8, cache=cache)
        assert dataset.element_spec[0].shape == (8, *SIZE, 3)


def test_an_epoch_has_each_image_at_most_once(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    kept = batches(data.face_dataset(arrays, image_size=SIZE, batch_size=8))
    labels = np.concatenate([labels for _, labels in kept])
    assert len(labels) == len(set(labels.tolist())) == 32
    whole = batches(data.face_dataset(arrays, image_size=SIZE, batch_size=8, drop_remainder=False))
    assert [len(labels) for _, labels in whole] == [8, 8, 8, 8, 5]
    assert sorted(np.concatenate([labels for _, labels in whole]).tolist()) == list(range(37))


def test_labels_stay_with_their_images(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    for images, labels in batches(data.face_dataset(arrays, image_size=SIZE, batch_size=8)):
        np.testing.assert_array_equal(images[:, 3, 3, 0], (labels - 127.5) / 128.0)


def test_epochs_are_shuffled_anew_by_seed(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    def order(seed: int) -> list[list[int]]:
        dataset = data.face_dataset(
            arrays, image_size=SIZE, batch_size=37, seed=seed, repeat=True
        ).take(3)
        return [labels.tolist() for _, labels in batches(dataset)]

    orders = [*order(0), *order(1)]
    assert all(sorted(labels) == list(range(37)) for labels in orders)
    assert len({tuple(labels) for labels in orders}) == 6
    assert order(0) == orders[:3]


def test_shuffling_spreads_evenly() -> None:
    """Where an image lands is uniform over epochs: a chi-square over 8 images and 8 places."""
    count, epochs = 8, 800
    images, labels = np.zeros((count, 2, 2, 3), np.uint8), np.arange(count)
    dataset = data.face_dataset(
        (images, labels), image_size=(2, 2), batch_size=count, augment="none", repeat=True
    )
    table = np.zeros((count, count))
    for _, order in dataset.take(epochs):
        table[np.arange(count), order.numpy()] += 1
    expected = epochs / count
    # 49 degrees of freedom: the 99.99 % quantile is 96
    assert ((table - expected) ** 2 / expected).sum() < 96.0


def test_unshuffled_keeps_the_order(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    dataset = data.face_dataset(arrays, image_size=SIZE, batch_size=8, shuffle=False)
    assert np.concatenate([labels for _, labels in batches(dataset)]).tolist() == list(range(32))


@pytest.mark.parametrize("augment", ["mirror", "strong"])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_start_step_continues_bit_for_bit(root: Path, augment: str, drop_remainder: bool) -> None:
    """Across epochs, too: 40 pictures in batches of 12 are 3 or 4 steps an epoch."""
    settings = {
        "image_size": SIZE, "batch_size": 12, "augment": augment, "seed": 11, "repeat": True,
        "drop_remainder": drop_remainder,
    }  # fmt: skip
    full = batches(data.face_dataset(root, **settings).take(11))
    for start in (1, 3, 4, 8):
        tail = data.face_dataset(root, start_step=start, **settings).take(11 - start)
        assert_equal(full[start:], batches(tail))


def test_start_step_within_one_epoch(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    full = batches(data.face_dataset(arrays, image_size=SIZE, batch_size=8))
    tail = data.face_dataset(arrays, image_size=SIZE, batch_size=8, start_step=3)
    assert_equal(full[3:], batches(tail))
    with pytest.raises(ValueError, match="`start_step` must be below the 4 steps"):
        data.face_dataset(arrays, image_size=SIZE, batch_size=8, start_step=4)


def test_cardinality(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert data.face_dataset(arrays, image_size=SIZE, batch_size=8).cardinality() == 4
    endless = data.face_dataset(arrays, image_size=SIZE, batch_size=8, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert data.steps_per_epoch(37, 8) == 4
    assert data.steps_per_epoch(37, 8, drop_remainder=False) == 5


def test_channel_order(root: Path) -> None:
    settings = {"image_size": SIZE, "batch_size": 8}
    rgb = batches(data.face_dataset(root, **settings))
    bgr = batches(data.face_dataset(root, channel_order="bgr", **settings))
    assert_equal([(images[..., ::-1], labels) for images, labels in rgb], bgr)


# ----- augmentation


@pytest.fixture(scope="module")
def portraits() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.training_set(32, 2, size=SIZE)


def pairs_of(
    portraits: tuple[np.ndarray, np.ndarray], augment: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each original with what augmentation made of it."""
    plain, changed = (
        data.face_dataset(portraits, image_size=SIZE, batch_size=32, augment=kind)
        for kind in ("none", augment)
    )
    for (original, _), (image, _) in zip(batches(plain), batches(changed), strict=True):
        yield from zip(original, image, strict=True)


def test_mirror_flips_about_half_and_changes_nothing_else(
    portraits: tuple[np.ndarray, np.ndarray],
) -> None:
    flipped = []
    for original, image in pairs_of(portraits, "mirror"):
        same, mirror = np.array_equal(original, image), np.array_equal(original[:, ::-1], image)
        assert same or mirror
        flipped.append(mirror)
    assert 16 <= sum(flipped) <= 48  # 64 fair coins: four standard deviations


def test_strong_changes_a_little(portraits: tuple[np.ndarray, np.ndarray]) -> None:
    nearer = []
    for original, image in pairs_of(portraits, "strong"):
        assert np.isfinite(image).all()
        assert np.abs(image).max() <= 1.25 * 0.9961 + 0.16 + 1e-6  # contrast, then brightness
        assert not np.array_equal(original, image)
        other = min(np.abs(turned - image).mean() for turned in (original, original[:, ::-1]))
        nearer.append(other < np.abs(original[::-1] - image).mean())
    assert np.mean(nearer) > 0.9  # still that face, rather than one upside down


def test_mirror_differs_between_epochs(portraits: tuple[np.ndarray, np.ndarray]) -> None:
    dataset = data.face_dataset(
        portraits, image_size=SIZE, batch_size=64, shuffle=False, repeat=True
    )
    first, second = batches(dataset.take(2))
    assert np.any(first[0] != second[0])


# ----- with Keras, and arguments


def test_fits_a_keras_model(portraits: tuple[np.ndarray, np.ndarray]) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((*SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(32)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    dataset = data.face_dataset(portraits, image_size=SIZE, batch_size=16, repeat=True)
    history = model.fit(dataset, epochs=2, steps_per_epoch=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_distributes_over_two_replicas(
    portraits: tuple[np.ndarray, np.ndarray], two_replicas: tf.distribute.MirroredStrategy
) -> None:
    dataset = data.face_dataset(portraits, image_size=SIZE, batch_size=16)
    distributed = two_replicas.experimental_distribute_dataset(dataset)
    seen = []
    for images, labels in distributed:
        parts = two_replicas.experimental_local_results(images)
        assert [part.shape for part in parts] == [(8, *SIZE, 3)] * 2
        seen += [part.numpy() for part in two_replicas.experimental_local_results(labels)]
    whole = np.concatenate([labels for _, labels in batches(dataset)])
    np.testing.assert_array_equal(np.concatenate(seen), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"batch_size": 38}, "`batch_size` must not exceed the number of images, 37"),
        ({"channel_order": "grb"}, "`channel_order` must be one of 'rgb', 'bgr'"),
        ({"augment": "heavy"}, "`augment` must be one of 'none', 'mirror', 'strong'"),
        ({"image_size": (112, 96)}, r"source images must be uint8 \(n, 112, 96, 3\)"),
        ({"image_size": (0, 96)}, "`image_size` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"start_step": -1}, "`start_step` must be"),
    ],
)
def test_wrong_arguments_are_named(
    arrays: tuple[np.ndarray, np.ndarray], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        data.face_dataset(arrays, **{"image_size": SIZE, "batch_size": 8, **settings})
    assert "Received" in str(error.value)


def test_wrong_arrays_are_named(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = arrays
    with pytest.raises(ValueError, match="labels must be integers"):
        data.face_dataset((images, labels[:-1]), image_size=SIZE)
    with pytest.raises(ValueError, match="labels must be integers"):
        data.face_dataset((images, labels.astype(float)), image_size=SIZE)
    with pytest.raises(ValueError, match="must be uint8"):
        data.face_dataset((images.astype(np.float32), labels), image_size=SIZE)


@pytest.mark.parametrize("stream", [False, True])
def test_one_batch_alone_is_the_dataset_s(stream, tmp_path):
    """Positions to the letter; images, decoded and augmented again, to the bit."""
    root = synthetic.write_folder(tmp_path / "faces", 3, 7, size=(56, 48))
    images, labels, index = data.load_folder(root, image_size=(56, 48))
    source = index if stream else (images, labels)
    options = {"image_size": (56, 48), "batch_size": 4, "seed": 5, "channel_order": "bgr"}
    cache = "none" if stream else "memory"
    dataset = data.face_dataset(source, augment="strong", repeat=True, cache=cache, **options)
    plain = data.face_dataset(source, augment="none", repeat=True, cache=cache, **options)
    batches = [list(d.take(8).as_numpy_iterator()) for d in (dataset, plain)]
    for step in (0, 4, 5, 7):
        alone, alone_labels = data.batch_at(source, step, augment="strong", **options)
        np.testing.assert_array_equal(alone_labels, batches[0][step][1])
        np.testing.assert_array_equal(alone, batches[0][step][0])
        positions = data.batch_positions(len(labels), 4, step, seed=5)
        faces = data.normalize(images[positions][..., ::-1])
        np.testing.assert_array_equal(faces, batches[1][step][0])


def test_positions_of_no_batch_are_refused():
    with pytest.raises(ValueError, match="`batch_size` must not exceed the number of images, 3"):
        data.batch_positions(3, 4, 0)
    with pytest.raises(ValueError, match="`start_step` must be an integer >= 0"):
        data.batch_positions(8, 4, -1)
    last = data.batch_positions(10, 4, 2, shuffle=False, drop_remainder=False)
    assert last.tolist() == [8, 9]
