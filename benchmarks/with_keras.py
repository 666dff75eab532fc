"""This library's side of the benchmark. Each task returns a function that does one step."""

from __future__ import annotations

import atexit
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.layers.host_angular_dense import HostAngularDense
from tf_sphereface.layers.sampled_angular_dense import SampledAngularDense

LAMBDA = 5.0
Step = Callable[[], object]


def use_threads(count: int) -> None:
    """Limit TensorFlow to `count` threads inside an operation, and as many operations at a time."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def versions() -> dict[str, str]:
    """Return what was measured."""
    return {
        "tf_sphereface": sf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def product(size: int, dtype: str) -> Step:
    """Multiply two square matrices."""
    a, b = (tf.cast(tf.random.stateless_uniform((size, size), (0, n)), dtype) for n in (1, 2))
    multiply = tf.function(tf.matmul)
    return lambda: multiply(a, b)[0, 0].numpy()


def _embeddings(num_classes: int, batch: int, width: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, width)).astype("float32")
    return tf.constant(x), tf.constant(rng.integers(0, num_classes, batch), tf.int32)


def head(num_classes: int, batch: int, width: int, xla: bool) -> Step:
    """Compute the loss over all classes, and its gradients to embeddings and centres."""
    layer = sf.layers.AngularDense(num_classes)
    layer.build((None, width))
    loss = sf.losses.ASoftmaxLoss(margin=4, annealing=LAMBDA)
    loss.xla = xla
    embeddings, labels = _embeddings(num_classes, batch, width)

    @tf.function(jit_compile=xla, autograph=False)
    def gradients(x: Any, kernel: Any, y: Any) -> Any:
        with tf.GradientTape() as tape, keras.StatelessScope([(layer.kernel, kernel)]):
            tape.watch([x, kernel])
            value = loss(y, layer(x))
        return value, *tape.gradient(value, [x, kernel])

    return lambda: gradients(embeddings, layer.kernel.value, labels)[0].numpy()


def sampled_head(
    num_classes: int, batch: int, width: int, rate: float, centers: str = "device"
) -> Step:
    """Draw centres, fetch them, compute loss and gradients over them, and put them back.

    `centers` are as of `FaceClassifier`, or `"files"`: in a folder that is removed at the end.
    """
    layer = sampled_layer(num_classes, rate, centers)
    layer.build((None, width))
    loss = sf.losses.ASoftmaxLoss(margin=4, annealing=LAMBDA)
    embeddings, labels = _embeddings(num_classes, batch, width)
    count = itertools.count()

    @tf.function(autograph=False)
    def gradients(x: Any, labels: Any, step: Any) -> Any:
        prepared = layer.prepare(labels, step, labels)
        places, (chosen, drawn) = layer.draw(labels, step, *prepared)
        layer.load(chosen, drawn)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(places, layer.sampled(x))
        result = value, *tape.gradient(value, [x, layer.drawn.value])
        layer.store(chosen)
        return result

    return lambda: gradients(embeddings, labels, tf.constant(next(count)))[0].numpy()


def sampled_layer(num_classes: int, rate: float, centers: str) -> SampledAngularDense:
    """Return a sampled head, not built, whose centres are where `centers` says."""
    if centers == "device":
        return SampledAngularDense(num_classes, rate)
    return HostAngularDense(num_classes, rate, centers=center_place(centers))


def center_place(centers: str) -> str:
    """Return `centers`, and for `"files"` a folder that is removed when the process ends."""
    if centers != "files":
        return centers
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def train(network: str, dtype: str, batch: int, num_classes: int) -> Step:
    """Train on one batch: forward, backward and update, as `fit` does."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    backbone = {
        "SphereFaceNet-4": lambda: sf.backbones.SphereFaceNet(4, (56, 48, 3)),
        "SphereFaceNet-20": lambda: sf.backbones.SphereFaceNet(20),
        "MobileFaceNet": sf.backbones.MobileFaceNet,
        "IResNet-18": lambda: sf.backbones.IResNet(18),
    }[network]()
    model = sf.FaceClassifier(backbone, num_classes)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, loss=sf.losses.ASoftmaxLoss(margin=4, annealing=LAMBDA))
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(-1, 1, (batch, *backbone.input_shape[1:])).astype("float32"))
    labels = tf.constant(rng.integers(0, num_classes, batch), tf.int32)
    return lambda: model.train_on_batch(images, labels)


def faces(folder: str, people: int, each: int) -> Step:
    """Write synthetic faces and a pack of them; a step of this task does nothing."""
    written = sf.data.synthetic.write_folder(Path(folder, "faces"), people, each)
    sf.data.pack_folder(written, Path(folder, "packed"))
    return lambda: None


def pipeline(folder: str, batch: int, packed: bool) -> Step:
    """Read a batch of normalised faces, shuffled and mirrored at random; nothing is cached."""
    if packed:
        pack = sf.data.open_pack(Path(folder, "packed"))
        data = sf.data.face_dataset(pack, batch_size=batch, repeat=True)
    else:
        index = sf.data.check_folder(Path(folder, "faces"))
        data = sf.data.face_dataset(index, batch_size=batch, repeat=True, cache="none")
    batches = iter(data)
    return lambda: next(batches)
