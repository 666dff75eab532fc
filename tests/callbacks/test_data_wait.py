"""The wait for batches: said where the data bounds the training, and nowhere else."""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.classifier.batch_arrival import BatchArrival

BATCH, STEPS = 4, 10


def trained(say, delay=0.0, work=0.0, strategy=None, epochs=1, **options):
    """Train on a source that takes `delay` seconds a batch, by a step that takes `work` more."""

    class Busy(keras.layers.Layer):
        def call(self, x):
            if not work:
                return x

            def rest(value):
                time.sleep(work)
                return value

            slow = tf.numpy_function(rest, [x], tf.float32)
            return x + tf.stop_gradient(tf.ensure_shape(slow, x.shape) - x)

    def slow(x, y):
        def wait(value):
            time.sleep(delay)
            return value

        x = tf.numpy_function(wait, [x], tf.float32)
        return tf.ensure_shape(x, [BATCH, 8]), y

    with (strategy or tf.distribute.get_strategy()).scope():
        inputs = keras.Input((8,))
        backbone = keras.Model(inputs, keras.layers.Dense(4)(Busy()(inputs)))
        model = sf.FaceClassifier(backbone, num_classes=3)
        model.compile("sgd", loss=sf.losses.ASoftmaxLoss(), **options)
    images = np.random.default_rng(0).normal(size=(BATCH, 8)).astype("float32")
    labels = np.arange(BATCH, dtype="int32") % 3
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat().map(slow).prefetch(2)
    waits = sf.callbacks.DataWait(say=say)
    model.fit(dataset, epochs=epochs, steps_per_epoch=STEPS, verbose=0, callbacks=[waits])
    return waits


@pytest.mark.parametrize("replicas", [1, 2])
def test_slow_data_is_said_once_an_epoch(replicas, two_replicas):
    said = []
    strategy = None if replicas == 1 else two_replicas
    waits = trained(said.append, delay=0.05, epochs=2, strategy=strategy)
    assert waits.share > 0.5
    assert len(said) == 2
    assert said[0].startswith("data-bound: ")


def test_nothing_is_said_where_the_step_is_what_takes_long():
    said = []
    waits = trained(said.append, delay=0.005, work=0.05)
    assert said == []
    assert 0 <= waits.share < 0.1


def test_the_time_is_kept_before_the_step_computes():
    arrival = BatchArrival()

    @tf.function
    def step(x):
        return arrival.record((x, None))[0] * 2

    step(tf.ones([2]))
    graph = step.get_concrete_function(tf.TensorSpec([2])).graph
    product = next(op for op in graph.get_operations() if op.type == "Mul")
    before = product.inputs[0].op.control_inputs
    assert [op.type for op in before] == ["LookupTableInsertV2"]
    assert abs(arrival.seconds - time.time()) < 60


def test_on_a_gpu_one_step_in_eight_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    waits = sf.callbacks.DataWait()
    monkeypatch.undo()
    waits.set_model(
        sf.FaceClassifier(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), 3)
    )

    class Loss:
        read = 0

        def __array__(self, dtype=None, copy=None):
            Loss.read += 1
            return np.zeros((), dtype)

    waits.on_train_begin()
    waits.on_epoch_begin(0)
    for batch in range(24):
        waits.on_train_batch_begin(batch)
        waits.on_train_batch_end(batch, {"loss": Loss()})
    assert Loss.read == 4  # before and after steps 8 and 16


def test_a_stock_model_is_refused():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="DataWait needs a tf_sphereface"):
        model.fit(
            np.zeros((4, 8)), np.zeros((4, 4)), callbacks=[sf.callbacks.DataWait()], verbose=0
        )
