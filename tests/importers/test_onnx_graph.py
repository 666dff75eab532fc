"""Embedders in ONNX files become Keras models that compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.importers.onnx_graphs import (
    SIZE,
    Maker,
    excitation,
    iresnet,
    mobilefacenet,
    run,
)
from tf_sphereface.importers import load_onnx

TOLERANCE = 1e-4  # of an embedding's length


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).normal(size=(3, *SIZE, 3)).astype(np.float32)


def kinds(network):
    return [type(layer).__name__ for layer in network.model.layers]


def agree(path, images, **options):
    """Compare a file's Keras model with ONNX Runtime, and return it."""
    network = load_onnx(path, **options)
    expected = run(path, images)
    expected = expected.reshape(len(images), -1)
    actual = np.asarray(network.model(images))
    assert actual.shape == expected.shape
    error = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < TOLERANCE
    return network


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("graph", [iresnet, mobilefacenet, excitation])
def test_exported_networks(tmp_path, images, graph, opset):
    add, output = graph(opset)
    network = agree(add.save(tmp_path / "x.onnx", output), images)
    assert network.model.output_shape == (None, 10)
    assert "Permute" not in kinds(network)
    assert network.normalized == (graph is excitation)


@pytest.mark.parametrize(("opset", "batch"), [(11, "n"), (17, "n"), (11, 1)])
def test_a_flatten_by_its_shape(tmp_path, images, opset, batch):
    add, output = iresnet(opset, by_shape=True, batch=batch)
    network = agree(add.save(tmp_path / "x.onnx", output), images)
    layers = kinds(network)
    assert layers.count("BatchNormalization") == 4
    assert layers.count("Dense") == layers.count("Flatten") == 1
    assert not {"Permute", "Reshape"} & set(layers)


def head(add, x, channels):
    """End a graph whose map has these channels."""
    return add.conv(add("GlobalAveragePool", x), channels, 6, kernel=1)


def channel_shuffle(add, x):
    x = add("Reshape", x, np.asarray([0, 2, 4, 16, 12]))
    return add("Reshape", add("Transpose", x, perm=[0, 2, 1, 3, 4]), np.asarray([0, 8, 16, 12]))


def split(add, x, **options):
    return add("Concat", *add("Split", x, outputs=2, axis=1, **options)[::-1], axis=1)


def root(add, x):
    return add("Sqrt", add("Add", add("Mul", x, x), np.float32(1)))


def dropout(add, x):
    return add("Dropout", x, np.float32(0.4), np.asarray(False))


def by_one_channel(add, x):
    return add("Mul", x, add.axes("Unsqueeze", add("Gather", x, np.asarray(3), axis=1), [1]))


ON_MAPS = {
    "avg_pool": lambda add, x: add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2],
                                   pads=[1] * 4, count_include_pad=1),
    "avg_pool_same": lambda add, x: add("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "avg_pool_whole": lambda add, x: add("AveragePool", x, kernel_shape=[16, 12]),
    "max_pool": lambda add, x: add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "max_pool_ceil": lambda add, x: add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2],
                                        ceil_mode=1),
    "max_pool_ceil_behind": lambda add, x: add("MaxPool", x, kernel_shape=[1, 1], strides=[3, 3],
                                               ceil_mode=1),
    "max_pool_same": lambda add, x: add("MaxPool", x, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "global_max": lambda add, x: add("GlobalMaxPool", x),
    "same_upper": lambda add, x: add("Conv", x, add.weights(8, 8, 3, 3), auto_pad="SAME_UPPER",
                                     strides=[2, 2]),
    "same_lower": lambda add, x: add("Conv", x, add.weights(8, 8, 3, 3), auto_pad="SAME_LOWER",
                                     strides=[2, 2]),
    "valid": lambda add, x: add("Conv", x, add.weights(8, 8, 3, 3), auto_pad="VALID"),
    "one_side": lambda add, x: add("Conv", x, add.weights(8, 8, 3, 2), pads=[0, 1, 2, 0]),
    "dilated": lambda add, x: add.conv(x, 8, 8, dilations=[2, 2], pads=[2] * 4),
    "bias_behind": lambda add, x: add("Add", add.conv(x, 8, 8, bias=False), add.weights(8, 1, 1)),
    "slope_of_one": lambda add, x: add("PRelu", x, np.asarray([0.3])),
    "slope_per_column": lambda add, x: add("PRelu", x, add.weights(12)),
    "slope_batch": lambda add, x: add("PRelu", x, add.weights(1, 8, 1, 1)),
    "leaky": lambda add, x: add("LeakyRelu", x, alpha=0.2),
    "clip": lambda add, x: add.limits(x, -0.5, 0.5),
    "tanh": lambda add, x: add("Tanh", x),
    "elu": lambda add, x: add("Elu", x),
    "hard_sigmoid": lambda add, x: add("HardSigmoid", x, alpha=1 / 6),
    "hard_swish": lambda add, x: add("HardSwish", x),
    "swish": lambda add, x: add("Mul", x, add("Sigmoid", x)),
    "affine": lambda add, x: add("Sub", add("Mul", x, add.weights(1, 8, 1, 1)),
                                  add.weights(8, 1, 1)),
    "from_one": lambda add, x: add("Sub", np.float32(1), add("Div", x, np.float32(3))),
    "sum_of_three": lambda add, x: add("Sum", x, add("Relu", x), add("Neg", x)),
    "sum_of_one": lambda add, x: add("Concat", add("Sum", x), axis=1),
    "sum_of_nothing": lambda add, x: add("ReduceSum", x, None, noop_with_empty_axes=1),
    "largest": lambda add, x: add("Max", add.conv(x, 8, 8), x),
    "root": root,
    "power": lambda add, x: add("Pow", x, np.float32(2)),
    "pad": lambda add, x: add("Pad", x, np.asarray([0, 0, 1, 0, 0, 0, 2, 3])),
    "pad_channels": lambda add, x: add("Slice", add("Pad", x, np.asarray([0, 2, 0, 0, 0, 1, 0, 0])),
                                       np.asarray([1]), np.asarray([9]), np.asarray([1])),
    "reflect": lambda add, x: add("Pad", x, np.asarray([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect"),
    "slice": lambda add, x: add("Slice", x, np.asarray([0, 1]), np.asarray([2**62, 2**62]),
                                np.asarray([2, 3]), np.asarray([2, 2])),
    "reversed": lambda add, x: add("Slice", x, np.asarray([-1]), np.asarray([-(2**62)]),
                                   np.asarray([1]), np.asarray([-1])),
    "gather": lambda add, x: add("Gather", x, np.arange(8)[::-1].copy(), axis=1),
    "one_channel": by_one_channel,
    "split": lambda add, x: split(add, x, num_outputs=2),
    "parts": lambda add, x: add("Concat", *add("Split", x, np.asarray([3, 5]), outputs=2, axis=1),
                                axis=-3),
    "shuffle": channel_shuffle,
    "transposed": lambda add, x: add("Transpose", add("Relu", add(
                                     "Transpose", x, perm=[0, 3, 2, 1])), perm=[0, 3, 2, 1]),
    "dropout": dropout,
    "cast": lambda add, x: add("Cast", add("Identity", x), to=1),
    "squeeze_back": lambda add, x: add.axes("Squeeze", add.axes("Unsqueeze", x, [1]), [1]),
    "squeeze_all": lambda add, x: add("Squeeze", add.axes("Unsqueeze", x, [2, 4])),
    "dropout_mask": lambda add, x: add("Dropout", x, outputs=2)[0],
    "bn": lambda add, x: add.norm(x, 8),
    "weights_made": lambda add, x: add("Conv", x, add("Transpose", add(
                                       "Mul", add.weights(3, 3, 8, 8), np.float32(2)),
                                       perm=[3, 2, 0, 1]), pads=[1] * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_MAPS)
def test_operators_on_maps(tmp_path, images, name):
    add = Maker(18)
    x = ON_MAPS[name](add, add.conv(add.input, 3, 8))
    agree(add.save(tmp_path / "x.onnx", head(add, x, 8)), images)


ON_VECTORS = {
    "slope": lambda add, x: add("PRelu", add("Flatten", x), add.weights(16 * 12 * 8)),
    "affine": lambda add, x: add("Add", add("Mul", add("Flatten", x), np.float32(2)),
                                 add.weights(1, 16 * 12 * 8)),
    "norm": lambda add, x: add.norm(add("Flatten", x), 16 * 12 * 8),
    "again": lambda add, x: add("Flatten", add.conv(add("Reshape", add("Relu", add("Flatten", x)),
                                np.asarray([-1, 8, 16, 12])), 8, 8)),
    "sum": lambda add, x: add("Add", add("Flatten", x), add("Flatten", add("Relu", x))),
    "mixed_sum": lambda add, x: add("Add", add("Flatten", x), add("Flatten", add("Reshape", add(
                                    "Relu", x), np.asarray([0, 4, 32, 12])))),
    "joined": lambda add, x: add("Concat", *add("Split", add("Flatten", x), np.asarray([500, 1036]),
                                 outputs=2, axis=1), axis=1),
    "three_axes": lambda add, x: add("Flatten", add("Reshape", x, np.asarray([0, 8, -1]))),
    "columns_first": lambda add, x: add("Flatten", add("Transpose", x, perm=[0, 2, 3, 1])),
    "batch_first": lambda add, x: add("Reshape", x, np.asarray([-1, 16 * 12 * 8])),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_VECTORS)
@pytest.mark.parametrize("end", ["dense", "none"])
def test_the_order_of_flattened_features(tmp_path, images, name, end):
    add = Maker(18)
    x = ON_VECTORS[name](add, add.conv(add.input, 3, 8))
    if end == "dense":
        x = add("Gemm", x, add.weights(16 * 12 * 8, 6), add.weights(1, 6), alpha=0.5, beta=2.0)
    agree(add.save(tmp_path / "x.onnx", x), images)


NORMS = {
    "reduce_l2": lambda add, x: add("Div", x, add.axes("ReduceL2", x, [1], since=18)),
    "root": lambda add, x: add("Div", x, add("Sqrt", add.axes(
        "ReduceSum", add("Mul", x, x), [-1]))),
    "power": lambda add, x: add("Mul", x, add("Reciprocal", add("Sqrt", add("Max", add.axes(
        "ReduceSum", add("Pow", x, np.float32(2)), [1]), np.float32(1e-12))))),
    "lp": lambda add, x: add("LpNormalization", x, axis=1, p=2),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_unit_length_at_the_end(tmp_path, images, name):
    add = Maker(18)
    x = add("Flatten", head(add, add.input, 3))
    network = agree(add.save(tmp_path / "x.onnx", NORMS[name](add, x)), images)
    assert network.normalized
    assert kinds(network)[-1] == "UnitNormalization"


def test_another_norm_is_computed_as_it_is(tmp_path, images):
    add = Maker(18)
    x = add("Flatten", head(add, add.input, 3))
    norm = add("Add", add.axes("ReduceL2", x, [1], since=18), np.float32(0.5))
    network = agree(add.save(tmp_path / "x.onnx", add("Div", x, norm)), images)
    assert not network.normalized


def test_an_input_with_the_channel_last(tmp_path, images):
    add = Maker(17, shape=["n", *SIZE, 3])
    x = add("Transpose", add.input, perm=[0, 3, 1, 2])
    x = add("Flatten", add.conv(x, 3, 4))
    x = add("MatMul", x, add.weights(16 * 12 * 4, 6))
    network = agree(add.save(tmp_path / "x.onnx", x), images)
    assert kinds(network) == ["InputLayer", "Conv2D", "Flatten", "Dense"]


def test_weights_of_16_bits(tmp_path, images):
    add = Maker(17)
    half = add.weights(6, 3, 16, 12).astype(np.float16)
    x = add("Conv", add.input, add("Cast", add.constant(half), to=1))
    network = agree(add.save(tmp_path / "x.onnx", x), images)
    assert network.half
    assert {str(weight.dtype) for weight in network.model.weights} == {"float32"}


def test_dropout_works_in_training(tmp_path, images):
    add = Maker(17)
    x = dropout(add, add("Flatten", add.conv(add.input, 3, 4)))
    network = load_onnx(add.save(tmp_path / "x.onnx", x))
    dropped = np.asarray(network.model(images, training=True)) == 0
    assert 0.3 < dropped.mean() < 0.5


def test_layers_are_named_after_the_operators(tmp_path):
    add, output = mobilefacenet()
    model = load_onnx(add.save(tmp_path / "x.onnx", output)).model
    assert isinstance(model.get_layer("Conv_0"), keras.layers.Conv2D)
    assert model.get_layer("Conv_2").groups == 4
    assert isinstance(model.get_layer("Conv_6"), keras.layers.DepthwiseConv2D)
