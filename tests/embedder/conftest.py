"""Faces, a network, what it makes of them, and the network in TensorFlow Lite."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.embedder.small import SIZE, make_network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (11, *SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(network, faces):
    """The embeddings, computed by the network alone from (x - 127.5) / 128."""
    return network.predict((faces.astype(np.float32) - 127.5) / 128, verbose=0)


@pytest.fixture(scope="module")
def tflite(network, faces, tmp_path_factory):
    """name -> a TensorFlow Lite file of the network."""
    root = tmp_path_factory.mktemp("tflite")

    def convert(batch, quantized=None):
        image = keras.Input((*SIZE, 3), batch_size=batch, name="image")
        model = keras.Model(image, network(image))
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if quantized is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            values = (faces.astype(np.float32) - 127.5) / 128
            converter.representative_dataset = lambda: ([x[None]] for x in values)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = quantized
        with warnings.catch_warnings():
            # The old converter asks for statistics of the inputs that it then measures itself.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
            return converter.convert()

    files = {
        "any": convert(None),
        "one": convert(1),
        "four": convert(4),
        "int8": convert(1, tf.int8),
        "uint8": convert(1, tf.uint8),
    }
    for name, content in files.items():
        (root / f"{name}.tflite").write_bytes(content)
    return root
