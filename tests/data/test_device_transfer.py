"""The stage that copies batches ahead: where it is taken, and that it changes no batch."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.data import device_transfer


@pytest.fixture
def a_gpu(monkeypatch):
    """Have the second logical CPU listed as the GPU."""
    devices = {"GPU": tf.config.list_logical_devices("CPU")[1:]}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices.get(kind, []))


def faces(weighted=False):
    images = np.arange(6 * 4 * 4 * 3, dtype="uint8").reshape(6, 4, 4, 3)
    parts = [images, np.arange(6, dtype="int32")]
    parts += [np.linspace(1, 2, 6, dtype="float32")] * weighted
    return tf.data.Dataset.from_tensor_slices(tuple(parts)).batch(2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("a_gpu")
def test_on_a_gpu_the_batches_are_the_same_and_lie_there(weighted):
    plain = faces(weighted)
    ahead = device_transfer.on_device(plain, tf.distribute.get_strategy())
    assert ahead.element_spec == plain.element_spec
    assert "CPU:1" in next(iter(ahead))[0].device
    for found, expected in zip(ahead, plain, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("a_gpu")
def test_where_the_stage_fails_the_dataset_is_as_it_was(monkeypatch, caplog):
    def refuse(*_):
        raise tf.errors.UnimplementedError(None, None, "no int32 there")

    monkeypatch.setattr(tf.data.experimental, "prefetch_to_device", refuse)
    plain = faces()
    assert device_transfer.on_device(plain, tf.distribute.get_strategy()) is plain
    assert "not copied" in caplog.text
    assert "no int32 there" in caplog.text


def test_elsewhere_the_dataset_is_as_it_was(two_replicas, monkeypatch):
    plain, default = faces(), tf.distribute.get_strategy()
    assert device_transfer.on_device(plain, default) is plain  # no GPU
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [tf.config.LogicalDevice("/cpu:1", "GPU")]
    )
    assert device_transfer.on_device(plain, two_replicas) is plain
    with two_replicas.scope():
        assert device_transfer.on_device(plain, two_replicas) is plain
    distributed = two_replicas.experimental_distribute_dataset(plain)
    assert device_transfer.on_device(distributed, default) is distributed


@pytest.mark.usefixtures("a_gpu")
def test_a_classifier_trains_on_it_and_an_error_of_the_pipeline_keeps_its_text():
    image = keras.Input((4, 4, 3))
    model = FaceClassifier(
        keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image))), num_classes=6
    )
    model.compile("sgd", losses.ASoftmaxLoss())
    dataset = device_transfer.on_device(faces().repeat(), model.distribute_strategy)
    history = model.fit(dataset, epochs=2, steps_per_epoch=3, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))

    def fail(labels):
        raise ValueError(f"{Path('faces/a.jpg')} is damaged")

    broken = faces().map(
        lambda x, y: (x, tf.ensure_shape(tf.numpy_function(fail, [y], tf.int32), [None]))
    )
    with pytest.raises(tf.errors.OpError, match=r"faces/a\.jpg is damaged"):
        model.fit(device_transfer.on_device(broken, model.distribute_strategy), verbose=0)
