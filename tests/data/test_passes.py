"""Passes over a dataset: each is the next epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.data.comparing import SIZE, assert_equal, batches, plain
from tf_sphereface import data


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
