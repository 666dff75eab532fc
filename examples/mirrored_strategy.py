"""Train on all GPUs of a machine; where there is none, two logical CPUs stand for them.

    python examples/mirrored_strategy.py

Batches are global: each is shared out over the replicas, and the result is that of one device. XLA
is compiled inside each replica (`--jit on`), which stock Keras cannot do under a strategy.
"""

from __future__ import annotations

import argparse

import keras
import tensorflow as tf

import tf_sphereface as sf

SIZE, BATCH = (56, 48), 32


def make_strategy() -> tf.distribute.MirroredStrategy:
    """Return a strategy over all GPUs, or over two logical CPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return tf.distribute.MirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def main() -> None:
    """Train for a few updates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jit", choices=("auto", "on", "off"), default="auto", help="XLA")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one epoch of few faces")
    arguments = parser.parse_args()
    people, epochs = (4, 1) if arguments.quick else (arguments.people, arguments.epochs)
    strategy = make_strategy()  # before TensorFlow does anything else
    faces = sf.data.synthetic.training_set(people, 32, size=SIZE)
    dataset = sf.data.face_dataset(faces, image_size=SIZE, batch_size=BATCH)

    keras.utils.set_random_seed(0)
    with strategy.scope():  # network, optimizer and model are made inside
        backbone = sf.backbones.SphereFaceNet(depth=4, input_shape=(*SIZE, 3), embedding_dim=128)
        model = sf.FaceClassifier(backbone, num_classes=people)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            loss=sf.losses.ASoftmaxLoss(margin=4),
            metrics=["accuracy"],
            jit_compile={"auto": "auto", "on": True, "off": False}[arguments.jit],
        )
    print(f"{strategy.num_replicas_in_sync} replicas; XLA: {model.xla_reason}")
    history = model.fit(dataset, epochs=epochs, verbose=2).history
    in_order = sf.data.face_dataset(faces, image_size=SIZE, batch_size=BATCH, training=False)
    embeddings = model.predict(in_order, verbose=0)  # row k is face k
    print(f"loss {history['loss'][-1]:.3f}, lambda {history['lambda'][-1]:.1f}, ", end="")
    print(f"embeddings {embeddings.shape}")


if __name__ == "__main__":
    main()
