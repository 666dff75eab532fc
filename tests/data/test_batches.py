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
    assert tail.cardinality() == 1


# ----- passes


def plain(**options: object) -> dict[str, object]:
    return {"image_size": SIZE, "batch_size": 8, "seed": 3, **options}


@pytest.mark.parametrize("source", ["arrays", "folder", "streamed", "pack"])
def test_each_pass_is_the_next_epoch(
    source: str, arrays: tuple[np.ndarray, np.ndarray], root: Path, tmp_path: Path
) -> None:
    """Pass k is epoch k of the endless stream, to the bit, wherever the images come from."""
    faces: object = arrays if source == "arrays" else root
    if source == "pack":
        faces = tmp_path / "pack"
        data.pack_folder(root, faces)
    options = plain(batch_size=12, cache="none" if source == "streamed" else "memory")
    one, other = (data.face_dataset(faces, **options) for _ in range(2))
    stream = batches(data.face_dataset(faces, repeat=True, **options).take(9))
    for k in range(3):
        assert one.cardinality() == 3
        assert_equal(batches(one), stream[3 * k : 3 * k + 3])
    assert_equal(batches(other), stream[:3])


def test_in_some_passes_every_image_is_seen(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    dataset = data.face_dataset(arrays, **plain())
    dropped = [
        set(range(37)).difference(*(labels.tolist() for _, labels in batches(dataset)))
        for _ in range(4)
    ]
    assert [len(left_out) for left_out in dropped] == [5] * 4
    assert not set.intersection(*dropped)


def test_passes_go_on_through_what_stands_behind(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """`take`, `repeat`, `map`, and a dataset zipped with itself; `cache` keeps the first pass."""

    def labels_of(dataset: tf.data.Dataset) -> list[list[int]]:
        return [labels.numpy().tolist() for _, labels in dataset]

    epochs = labels_of(data.face_dataset(arrays, repeat=True, **plain()).take(12))
    taken = data.face_dataset(arrays, **plain()).take(2)
    assert [labels_of(taken), labels_of(taken)] == [epochs[:2], epochs[4:6]]
    assert labels_of(data.face_dataset(arrays, **plain()).repeat(3)) == epochs
    mapped = data.face_dataset(arrays, **plain()).map(lambda image, label: (image, label + 1))
    assert [labels_of(mapped), labels_of(mapped)][1][0] == [label + 1 for label in epochs[4]]
    dataset = data.face_dataset(arrays, **plain())
    left, right = zip(*tf.data.Dataset.zip(dataset, dataset), strict=True)
    assert labels_of(left) == epochs[:4]
    assert labels_of(right) == epochs[4:8]
    cached = data.face_dataset(arrays, **plain()).cache()
    assert [labels_of(cached), labels_of(cached)] == [epochs[:4]] * 2


def test_passes_begin_where_the_start_lies(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    stream = batches(data.face_dataset(arrays, repeat=True, **plain()).take(16))
    later = data.face_dataset(arrays, start_step=8, **plain())  # after two epochs
    assert_equal(batches(later), stream[8:12])
    assert_equal(batches(later), stream[12:])
    within = data.face_dataset(arrays, start_step=6, **plain())
    assert within.cardinality() == 2
    assert_equal(batches(within), stream[6:8])
    assert_equal(batches(within), stream[10:12])


def test_the_endless_stream_is_the_same_each_time(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    stream = data.face_dataset(arrays, repeat=True, start_step=3, **plain())
    assert_equal(batches(stream.take(3)), batches(stream.take(3)))


@pytest.mark.parametrize("explicit", [True, False])
def test_to_evaluate_every_image_comes_once_in_order(
    arrays: tuple[np.ndarray, np.ndarray], explicit: bool
) -> None:
    options = {"augment": "none", "shuffle": False, "drop_remainder": False}
    dataset = data.face_dataset(
        arrays, image_size=SIZE, batch_size=8, **(options if explicit else {"training": False})
    )
    assert dataset.cardinality() == 5
    for _ in range(2):
        images, labels = (np.concatenate(part) for part in zip(*batches(dataset), strict=True))
        np.testing.assert_array_equal(images, data.normalize(arrays[0]))
        assert labels.tolist() == list(range(37))


def test_images_that_are_never_seen_are_said(arrays, caplog) -> None:
    data.face_dataset(arrays, shuffle=False, image_size=SIZE, batch_size=8)
    assert "the last 5 of 37 images are in no batch of any pass" in caplog.text


def test_fit_sees_another_epoch_each_time(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """With validation between, and with `steps_per_epoch`."""
    import keras

    seen: list[list[int]] = []
    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, keras.layers.Dense(1)(keras.layers.GlobalMaxPooling2D()(image)))
    model.compile("sgd", "mse", run_eagerly=True)
    train_step = model.train_step

    def record(batch):
        seen.append(batch[1].numpy().tolist())
        return train_step(batch)

    model.train_step = record
    epochs = [
        labels.tolist()
        for _, labels in batches(data.face_dataset(arrays, repeat=True, **plain()).take(12))
    ]
    held = data.face_dataset(arrays, training=False, **plain())
    dataset = data.face_dataset(arrays, **plain())
    model.fit(dataset, epochs=2, validation_data=held, verbose=0)
    model.fit(dataset, verbose=0)
    assert seen == epochs
    seen.clear()
    dataset = data.face_dataset(arrays, **plain())
    model.fit(dataset, epochs=2, steps_per_epoch=4, verbose=0)
    assert seen == epochs[:8]


# ----- class weights


def test_balanced_weights_make_each_person_weigh_alike(root: Path, tmp_path: Path) -> None:
    images = np.zeros((10, 4, 4, 3), np.uint8)
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 3])  # nobody is 1
    options = {"image_size": (4, 4), "batch_size": 5, "shuffle": False}
    dataset = data.face_dataset((images, labels), class_weights="balanced", **options)
    assert dataset.element_spec[2].shape == (5,)
    weights = np.concatenate([weights for _, _, weights in dataset])
    np.testing.assert_allclose(np.bincount(labels, weights), [10 / 3, 0, 10 / 3, 10 / 3], rtol=1e-6)
    chosen = {0: 1.0, 2: 0.0, 3: 2.5}
    dataset = data.face_dataset((images, labels), class_weights=chosen, **options)
    weights = np.concatenate([weights for _, _, weights in dataset])
    assert weights.tolist() == [chosen[label] for label in labels.tolist()]
    data.pack_folder(root, tmp_path / "pack")
    packed = data.face_dataset(tmp_path / "pack", class_weights="balanced", **plain())
    for _, _, weights in packed:
        np.testing.assert_allclose(weights, 1, rtol=1e-6)
    for wrong, message in (
        ("even", "`class_weights` must be one of 'balanced'"),
        ({0: 1.0, 2: 1.0}, "must have a weight for each class.*none for 3"),
        ({0: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}, "labels from 0 to 3"),
        ({0: -1.0, 2: 1.0, 3: 1.0}, r"`class_weights\[0\]` must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            data.face_dataset((images, labels), class_weights=wrong, **options)


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
    for images, labels in (*distributed, *distributed):  # two passes
        parts = two_replicas.experimental_local_results(images)
        assert [part.shape for part in parts] == [(8, *SIZE, 3)] * 2
        seen += [part.numpy() for part in two_replicas.experimental_local_results(labels)]
    again = data.face_dataset(portraits, image_size=SIZE, batch_size=16, repeat=True).take(8)
    whole = np.concatenate([labels for _, labels in batches(again)])
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:-1]), r"labels must be integers .*\(36,\), for 37 images"),
        (lambda x, y: (x, y.astype(float)), r"labels must be integers .*astype\(np.int32\)"),
        (lambda x, y: (x, np.eye(37)[y]), r"one-hot labels\? np.argmax"),
        (lambda x, y: (x, y.astype(str)), r"names: number them .*np.unique"),
        (
            lambda x, y: (x, y - 1),
            "labels must be numbers of classes, from 0 on. Received: from -1",
        ),
        (lambda x, y: (x, y.astype(np.int64) + 2**40), "labels must be numbers of classes"),
        (lambda x, y: (y, x), "which may be the labels: images come first"),
        (lambda x, y: (x / 255, y), r"float64 .*, from 0 to .*images \* 255"),
        (lambda x, y: (x / 127.5 - 1, y), r"from -1 to .*images \* 128"),
        (lambda x, y: (x.astype(np.float32), y), r"from 0 to 36: np.round\(images\)"),
        (lambda x, y: (x * np.float32("nan"), y), "some are not finite"),
        (lambda x, y: (x.transpose(0, 3, 1, 2), y), r"transpose\(0, 2, 3, 1\)"),
        (lambda x, y: (x[..., 0], y), "grey images, or a single one"),
        (lambda x, y: (np.concatenate([x, x[..., :1]], -1), y), "a fourth channel"),
        (lambda x, y: (x[:, :20, :30], y), r"pass image_size=\(20, 30\)"),
        (lambda x, y: (x, y, y), "must be .images, labels.. Received: 3 items"),
        (lambda x, y: (x[:0], y[:0]), "must hold an image or more"),
        (lambda x, y: {"images": x}, "`source` must be a folder.*Received: dict"),
        (lambda x, y: None, "`source` must be a folder.*Received: NoneType"),
    ],
)
def test_wrong_arrays_are_named(arrays, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.face_dataset(change(*arrays), image_size=SIZE, batch_size=8)


def test_labels_in_a_column_or_with_gaps_and_lists_are_read(arrays) -> None:
    images, labels = arrays
    for given in ((images, labels[:, None]), [images, labels.tolist()], (images, labels * 3)):
        dataset = data.face_dataset(given, image_size=SIZE, batch_size=37, training=False)
        ((_, got),) = batches(dataset)
        np.testing.assert_array_equal(got, np.ravel(given[1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("faces.zip", "is an archive: unpack it"),
        ("faces.tar.gz", "is an archive: unpack it"),
        ("pairs.csv", "is a list, and none is read"),
        ("faces.npz", "holds arrays: load them"),
        ("one.jpg", "is a file; faces are read from a folder"),
    ],
)
def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{name} {message}"):
        data.face_dataset(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        data.FaceSource(tmp_path / name).count()


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
