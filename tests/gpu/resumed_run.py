"""Trains with a sampled head on one device: `resumed_run.py FIRST LAST CHECKPOINT OUT.npz`.

Updates FIRST + 1 to LAST: from a checkpoint if FIRST is above 0, else with one halfway. JIT says
whether XLA compiles the step. A centre that is not drawn stays as it is, so those that a step has
changed are its sample.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.training import read_checkpoint, save_checkpoint

CLASSES, BATCH, SIZE = 40, 8, (12, 10)


def build(jit: bool) -> sf.FaceClassifier:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((*SIZE, 3))
    hidden = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    hidden = keras.layers.PReLU(keras.initializers.Ones(), shared_axes=[1, 2])(hidden)
    backbone = keras.Model(inputs, keras.layers.Dense(8)(keras.layers.Flatten()(hidden)))
    model = sf.FaceClassifier(backbone, CLASSES, sample_rate=0.5)
    loss = sf.losses.ASoftmaxLoss(margin=4)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss=loss, jit_compile=jit)
    return model


def main() -> None:
    first, last, checkpoint, out = sys.argv[1:]
    tf.config.experimental.enable_tensor_float_32_execution(False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * CLASSES, *SIZE, 3), np.uint8)
    faces = (images, np.arange(len(images)) % CLASSES)
    options = {"image_size": SIZE, "batch_size": BATCH, "repeat": True, "start_step": int(first)}
    batches = iter(sf.data.face_dataset(faces, **options))
    model = build(os.environ.get("JIT") == "1")
    if int(first):
        read_checkpoint(checkpoint).restore(model)
    found: dict[str, list[np.ndarray]] = {"samples": [], "labels": [], "images": []}
    for step in range(int(first), int(last)):
        if not int(first) and step == int(last) // 2:
            save_checkpoint(checkpoint, model, {"step": step})
        x, y = next(batches)
        before = model.head_layer.centres.numpy().copy()
        model.train_on_batch(x, y)
        found["samples"].append((model.head_layer.centres.numpy() != before).any(axis=1))
        found["labels"].append(y.numpy())
        found["images"].append(x.numpy())
    weights = {f"weight/{i}": value for i, value in enumerate(model.get_weights())}
    device = np.array(model.head_layer.centres.value.device)
    np.savez(out, **found, **weights, device=device)


if __name__ == "__main__":
    main()
