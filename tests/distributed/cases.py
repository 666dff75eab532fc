"""Trains small networks as one process of a cluster, or alone: `cases.py ROLE CASES.json OUT.npz`.

A process of its own for each other number of devices, because TensorFlow fixes its devices when it
starts and confuses the collective operations of several strategies in one process. ROLE is
`single`, `mirrored`, or `worker` (then TF_CONFIG says which of how many). LOGICAL_DEVICES is their
number and DEVICE their kind, CPU or GPU: several logical GPUs share one card. STEPS are 30 by
default.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.data.batches import untuned

STEPS, BATCH, CLASSES = int(os.environ.get("STEPS", "30")), 8, 32


class Recorder(keras.callbacks.Callback):
    """Keeps the logs of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.rows.append({name: float(value) for name, value in (logs or {}).items()})


def arrays(weighted: bool) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, STEPS * BATCH)
    images = 0.5 * rng.normal(size=(CLASSES, 6, 6, 2))[labels]
    images = (images + 0.2 * rng.normal(size=images.shape)).astype("float32")
    if not weighted:
        return images, labels
    return images, labels, rng.uniform(0.2, 2.0, labels.shape).astype("float32")


def dataset(data: tuple[np.ndarray, ...], part: int, parts: int) -> tf.data.Dataset:
    """Return this worker's part of each global batch."""
    index = np.arange(STEPS * BATCH).reshape(STEPS, parts, BATCH // parts)[:, part].ravel()
    chosen = tuple(array[index] for array in data)
    whole = tf.data.Dataset.from_tensor_slices(chosen)
    return whole.batch(BATCH // parts, drop_remainder=True).with_options(untuned())


def build(case: dict[str, Any]) -> sf.FaceClassifier:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    hidden = keras.layers.Conv2D(6, 3, use_bias=not case.get("normalise"))(inputs)
    if case.get("normalise"):
        hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
    if case.get("depthwise"):
        hidden = keras.layers.DepthwiseConv2D(3, padding="same")(hidden)
    slopes = keras.initializers.Constant(case.get("slope", 0.0))
    hidden = keras.layers.PReLU(slopes, shared_axes=[1, 2])(hidden)
    hidden = keras.layers.Flatten()(hidden)
    if case.get("dropout"):
        hidden = keras.layers.Dropout(0.3)(hidden)
    backbone = keras.Model(inputs, keras.layers.Dense(8)(hidden))
    softmax = case["loss"] == "softmax"
    options = dict(case.get("model", {}))
    model = sf.FaceClassifier(
        backbone, CLASSES, head="softmax" if softmax else "angular", **options
    )
    loss = None
    if not softmax:
        name, arguments = case["loss"]
        loss = getattr(sf.losses, name)(**arguments)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, **case.get("sgd", {}))
    metrics = {"weighted_metrics" if case.get("weighted") else "metrics": ["accuracy"]}
    model.compile(optimizer, loss=loss, jit_compile=case["jit"], **metrics)
    return model


def run(case: dict[str, Any], strategy: tf.distribute.Strategy | None) -> dict[str, np.ndarray]:
    data = arrays(case.get("weighted", False))
    if strategy is None:
        model, batches = build(case), dataset(data, 0, 1)
    else:
        with strategy.scope():
            model = build(case)
        batches = strategy.distribute_datasets_from_function(
            lambda context: (
                dataset(data, context.input_pipeline_id, context.num_input_pipelines)
                .unbatch()
                .batch(context.get_per_replica_batch_size(BATCH), drop_remainder=True)
            )
        )
    recorder = Recorder()
    model.fit(batches, epochs=1, steps_per_epoch=STEPS, verbose=0, callbacks=[recorder])
    found = {f"weight/{i}": value for i, value in enumerate(model.get_weights())}
    for name in recorder.rows[0]:
        found[f"log/{name}"] = np.array([row[name] for row in recorder.rows])
    found["embedding"] = np.asarray(model(data[0][:BATCH]))
    found["updates"] = np.array(model.optimizer.iterations)
    found["xla"] = np.array(model.uses_xla)
    return found


def run_all(
    cases: dict[Any, dict[str, Any]], strategy: tf.distribute.Strategy | None
) -> dict[str, np.ndarray]:
    """Run cases by their numbers; the results' names begin with them."""
    found = {number: run(case, strategy) for number, case in cases.items()}
    return {f"{number}/{name}": v for number, each in found.items() for name, v in each.items()}


def main(role: str, cases_file: str, out: str) -> None:
    gc.disable()  # an eighth of the time, in a process that soon ends
    count, kind = int(os.environ.get("LOGICAL_DEVICES", "1")), os.environ.get("DEVICE", "CPU")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    share = tf.config.LogicalDeviceConfiguration(memory_limit=2048 if kind == "GPU" else None)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices(kind)[0], [share] * count
    )
    strategy = None
    if role == "mirrored":
        # NCCL refuses two ranks on one card.
        reduction = tf.distribute.ReductionToOneDevice() if kind == "GPU" else None
        devices = [f"{kind}:{i}" for i in range(count)]
        strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    elif role == "worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with open(cases_file, encoding="utf-8") as handle:
        cases = json.load(handle)
    np.savez(out, **run_all(cases, strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
