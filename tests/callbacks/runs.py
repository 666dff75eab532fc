"""Short runs of small networks, watched by the doctor."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import tf_sphereface as sf

DIM, CLASSES = 8, 4


def faces(count: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise images, 8x8, whose labels are random: nothing can be learnt in a few steps."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 1, (count, 8, 8, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, count).astype(np.int32)


def backbone(norm: bool = False) -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Dense(16, name="first")(keras.layers.Flatten()(image))
    x = keras.layers.BatchNormalization(name="norm")(x) if norm else x
    x = keras.layers.PReLU(name="slope")(x)
    return keras.Model(image, keras.layers.Dense(DIM, name="embedding")(x))


def classifier(rate: float = 0.01, minimum: float = 5.0, **options: object) -> sf.FaceClassifier:
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES)
    annealing = sf.schedules.LambdaAnnealing(minimum=minimum)
    """Return a classifier; eager, as tracing costs more than a few steps of it."""
    options.setdefault("run_eagerly", True)
    optimizer = options.pop("optimizer", None) or keras.optimizers.SGD(rate)
    model.compile(optimizer, sf.losses.ASoftmaxLoss(4, annealing), **options)
    return model


def stock(rate: float = 0.01, eager: bool = True) -> keras.Model:
    base = backbone()
    model = keras.Model(base.inputs, sf.layers.AngularDense(CLASSES)(base.output))
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, sf.losses.ASoftmaxLoss(4, step=optimizer), run_eagerly=eager)
    return model


def run(model: keras.Model, *others: object, data=None, steps: int = 4, epochs: int = 1, **given):
    said: list[str] = []
    doctor = sf.callbacks.TrainingDoctor(say=said.append, **given)
    images, labels = data or faces()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16).repeat()
    model.fit(dataset, steps_per_epoch=steps, epochs=epochs, callbacks=[doctor, *others], verbose=0)
    assert said == [found.text for found in doctor.findings]
    return doctor


def kinds(doctor: sf.callbacks.TrainingDoctor) -> set[str]:
    return {found.kind for found in doctor.findings}


def sampled(rate: float = 0.01) -> sf.FaceClassifier:
    model = sf.FaceClassifier(backbone(), num_classes=100, sample_rate=0.25)
    model.compile(keras.optimizers.SGD(rate, 0.9), sf.losses.ASoftmaxLoss(4), run_eagerly=True)
    return model
