"""A small network, and a small ONNX file, that the tests of the embedder share."""

from __future__ import annotations

import keras
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (16, 12)
FED = {"channel_order": "rgb", "pixel_mean": 127.5, "pixel_scale": 128.0}
KNOWN = "image_rgb_mean_127p5_scale_128"  # the name of an input that is fed so


def make_network(policy="float32", size=SIZE, name=KNOWN):
    keras.utils.set_random_seed(7)
    layers = keras.layers
    image = keras.Input((*size, 3), name=name, dtype="float32")
    x = layers.ZeroPadding2D(1, dtype=policy)(image)
    x = layers.Conv2D(8, 3, strides=2, dtype=policy)(x)
    x = layers.PReLU(shared_axes=[1, 2], dtype=policy)(x)
    x = layers.Flatten(dtype=policy)(x)
    return keras.Model(image, layers.Dense(10, dtype=policy)(x), name="network")


def write_onnx(
    path, batch="n", channels_first=False, dtype=TensorProto.FLOAT, dim=10, sides=None, told=True
):
    """A file whose embedding is a random projection of the pixels, in this layout and type.

    `sides` are those of the output behind the batch, `told` whether the file declares them.
    """
    sides = sides or (dim,)
    count = SIZE[0] * SIZE[1] * 3
    weights = np.random.default_rng(1).normal(0, 0.1, (count, dim)).astype(np.float32)
    shape = [batch, 3, *SIZE] if channels_first else [batch, *SIZE, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["vector"]),
        helper.make_node("Reshape", ["vector", "sides"], ["embedding"]),
    ]
    declared = [batch, *(side if told else None for side in sides)]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, declared)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([0, *sides], np.int64), "sides"),  # 0: as it comes
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return weights


def add_onnx_metadata(path, metadata):
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "tf_sphereface", metadata.to_json()
    onnx.save(model, path)
