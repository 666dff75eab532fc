"""tf.data of faces: which batches come, in which order, mirrored how, and continued where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.data.comparing import SIZE, assert_equal, batches, plain
from tf_sphereface import data
from tf_sphereface.data import synthetic


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


@pytest.mark.parametrize("augment", ["mirror", "strong", "quality", "warp"])
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
        ({"augment": "heavy"}, "`augment` must be one of 'none', 'mirror', 'strong', 'quality', "),
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
