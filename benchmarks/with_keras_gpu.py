"""This library's side of gpu.py. Each task returns a function that does some steps."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import hlo
import keras
import numpy as np
import tensorflow as tf
from repeated import Seconds, repeated
from with_keras import LAMBDA, Step, center_place, faces, versions  # the worker asks for these

import tf_sphereface as sf
from tf_sphereface.utils import compile_cache

__all__ = ["device", "faces", "fit", "head", "network", "use_threads", "versions"]

WARM = 5  # steps of an epoch of `fit` before the first that counts


def use_threads(count: int) -> None:
    """Leave TensorFlow's threads as they are: a GPU's processes take turns."""


def device() -> dict[str, Any]:
    """Return the card's name, "" for a CPU, and the most memory that was held on it, in MB."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return {"card": "", "peak_device": None}
    details = tf.config.experimental.get_device_details(gpus[0])
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {"card": details.get("device_name", "?"), "peak_device": peak / 1e6}


def _prepare(precision: str, tf32: bool = True, cache: str = "") -> None:
    """Set what TensorFlow reads when it starts."""
    if cache:
        compile_cache.start(Path(cache))
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    sf.training.tune_xla()
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")


def _steps(model: Any, x: Any, y: Any, count: int) -> Step:
    """Return training steps on one batch on the device: what `fit` does, without its input."""
    model.make_train_function()
    batches = itertools.repeat((x, y))
    step = model.train_function
    return repeated(lambda: step(batches), lambda logs: float(logs["loss"]), count)


def network(
    name: str,
    precision: str,
    *,
    batch: int,
    num_classes: int,
    size: tuple[int, int],
    xla: bool,
    count: int,
    cache: str = "",
    depthwise: hlo.Depthwise = "table",
) -> Step:
    """Train a network on one batch; `depthwise` is the form of its 3x3 depthwise layers."""
    _prepare(precision, cache=cache)
    hlo.use_depthwise(depthwise)
    model = hlo.classifier(name, num_classes, size, jit_compile=xla)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, *size, 3)).astype("float32")
    labels = tf.constant(rng.integers(0, num_classes, batch), tf.int32)
    return _steps(model, tf.constant(images), labels, count)


def head(
    num_classes: int,
    batch: int,
    width: int,
    *,
    rate: float,
    tf32: bool,
    count: int,
    cache: str,
    centers: str = "device",
) -> Step:
    """Train a head on embeddings that one dense layer makes: loss, gradients and update."""
    _prepare("float32", tf32, cache)
    inputs = keras.Input((width,))
    backbone = keras.Model(inputs, keras.layers.Dense(width, use_bias=False)(inputs))
    place = center_place(centers)
    model = sf.FaceClassifier(backbone, num_classes, sample_rate=rate, centers=place)
    loss = sf.losses.ASoftmaxLoss(margin=4, annealing=LAMBDA)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=True)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, width)).astype("float32"))
    return _steps(model, x, tf.constant(rng.integers(0, num_classes, batch), tf.int32), count)


class Stopwatch(keras.callbacks.Callback):
    """Seconds of a step of `fit`, from the one after the `WARM`-th on."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.done, self.seconds = 0.0, 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin when the device has done the last step that does not count."""
        self.done = batch + 1
        if self.done == WARM:
            float((logs or {})["loss"])
            self.begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End when the device has done all."""
        float((logs or {})["loss"])
        self.seconds = (time.perf_counter() - self.begin) / (self.done - WARM)


def fit(
    source: str,
    folder: str,
    *,
    name: str,
    precision: str,
    batch: int,
    size: tuple[int, int],
    people: int,
    count: int,
    cache: str = "",
) -> Step:
    """Train by `fit`, as a script does.

    Args:
        source: `"memory, float32"`, `"memory, uint8"`, `"folder"` or `"pack"`.
        folder: with what `faces` has written.
        name: of the network.
        precision: of its layers.
        batch: images of a step.
        size: height and width of the images.
        people: classes, those of the folder.
        count: steps of an epoch.
        cache: folder of what XLA has compiled; "" for none.
    """
    _prepare(precision, cache=cache)
    model = hlo.classifier(name, people, size)
    common = {"image_size": size, "batch_size": batch, "dtype": "uint8", "repeat": True}
    if source.startswith("memory"):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (4 * batch, *size, 3), np.uint8)
        arrays = (images, rng.integers(0, people, len(images)).astype("int32"))
        data = sf.data.face_dataset(arrays, **{**common, "dtype": source.split()[1]})
    elif source == "pack":
        data = sf.data.face_dataset(Path(folder, "packed"), **common)
    else:
        data = sf.data.face_dataset(Path(folder, "faces"), cache="none", **common)
    first = True

    def step() -> Seconds:
        nonlocal first
        begin, watch = time.perf_counter(), Stopwatch()
        steps = 1 if first else WARM + count
        model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[watch] * (not first))
        seconds = time.perf_counter() - begin if first else watch.seconds
        first = False
        return Seconds(seconds)

    return step
