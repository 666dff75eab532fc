"""Operators that are imported, in a form that is not: the error names the operator and the fact."""

from __future__ import annotations

import numpy as np
import pytest

from tests.importers.onnx_graphs import Maker
from tf_sphereface.importers import load_onnx

CHANNELS = 8
SQUARE = {"kernel_shape": [3, 3]}


def kernel(add, *shape):
    return add.weights(*(shape or (CHANNELS, CHANNELS, 3, 3)))


def norm(add, x, variance, features=CHANNELS, **options):
    ones = np.ones(features, np.float32)
    return add("BatchNormalization", x, ones, ones, ones, variance * ones, **options)


# operator -> (a graph behind a map of 8 channels, 16 x 12; what the error says)
REFUSED = {
    "conv_volume": (lambda add, x: add("Conv", x, kernel(add, 8, 8, 3, 3, 3)), "spatial axes"),
    "conv_groups": (lambda add, x: add("Conv", x, kernel(add), group=3), "in 3 groups, for 8"),
    "conv_steps": (lambda add, x: add("Conv", x, kernel(add), strides=[2, 2], dilations=[2, 2]),
                   "together"),
    "conv_stride": (lambda add, x: add("Conv", x, kernel(add), strides=[0, 1]), "positive"),
    "conv_auto": (lambda add, x: add("Conv", x, kernel(add), auto_pad="SAME"), "auto_pad is"),
    "conv_cut": (lambda add, x: add("Conv", x, kernel(add), pads=[-1, 0, 0, 0]), "cuts the map"),
    "conv_vector": (lambda add, x: add("Conv", add("Flatten", x), kernel(add)), "must be a map"),
    "gemm_turned": (lambda add, x: add("Gemm", add("Flatten", x), kernel(add, 1536, 4), transA=1),
                    "transA"),
    "matmul_stack": (lambda add, x: add("MatMul", add("Flatten", x), kernel(add, 2, 1536, 4)),
                     "two axes"),
    "matmul_sides": (lambda add, x: add("MatMul", add("Flatten", x), kernel(add, 99, 4)),
                     "for 1536 numbers"),
    "norm_training": (lambda add, x: norm(add, x, 1, training_mode=1), "model.eval"),
    "norm_variance": (lambda add, x: norm(add, x, -1), "negative"),
    "norm_features": (lambda add, x: norm(add, x, 1, 5), "one number per channel"),
    "max_pool_padding": (lambda add, x: add("MaxPool", x, kernel_shape=[2, 2], pads=[2] * 4),
                         "for a window"),
    "max_pool_places": (lambda add, x: add("MaxPool", x, outputs=2, **SQUARE)[0], "second output"),
    "max_pool_wide": (lambda add, x: add("MaxPool", x, dilations=[2, 2], **SQUARE), "dilations"),
    "mean_of_some": (lambda add, x: add("AveragePool", x, pads=[2] * 4, kernel_shape=[5, 3]),
                     "do not count"),
    "elu": (lambda add, x: add("Elu", x, alpha=0.5), "alpha is 0.5"),
    "cast": (lambda add, x: add("Cast", x, to=7), "type 7"),
    "sum_mixed": (lambda add, x: add("Sum", x, x, np.float32(1)), "more than two"),
    "limits": (lambda add, x: add("Max", x, add.weights(8, 1, 1)), "more than one number"),
    "through_it": (lambda add, x: add("Div", np.float32(1), x), "constant through a value"),
    "by_zero": (lambda add, x: add("Div", x, np.float32(0)), "division by 0"),
    "not_finite": (lambda add, x: add("Mul", x, np.float32(np.nan)), "not finite"),
    "not_per_channel": (lambda add, x: add("Mul", x, add.weights(8, 16, 1)), "per channel"),
    "ranks": (lambda add, x: add("Add", x, add("Flatten", x)), "different rank"),
    "exponents": (lambda add, x: add("Pow", x, add.weights(8, 1, 1)), "several"),
    "squeezed": (lambda add, x: add("Squeeze", x, np.asarray([1])), "axes"),
    "parts": (lambda add, x: add("Split", x, np.asarray([3, 4]), outputs=2, axis=1)[0], "parts"),
    "empty": (lambda add, x: add("Slice", x, *map(np.asarray, ([9], [12], [1]))), "leaves nothing"),
    "gathered": (lambda add, x: add("Gather", x, np.asarray([8]), axis=1), "indices"),
    "pad_numbers": (lambda add, x: add("Pad", x, np.asarray([1, 1])), "2 numbers for 4 axes"),
    "pad_batch": (lambda add, x: add("Pad", x, np.asarray([1, 0, 0, 0, 0, 0, 0, 0])), "it pads by"),
    "pad_edge": (lambda add, x: add("Pad", x, np.asarray([0, 0, 1, 0, 0, 0, 1, 0]), mode="edge"),
                 "constant and reflect"),
    "norm_of_one": (lambda add, x: add("LpNormalization", x, axis=1, p=1), "p is 1"),
    "of_two_maps": (lambda add, x: add("Clip", x, add("Relu", x)), "must be a constant"),
    "whole_numbers": (lambda add, x: add("PRelu", x, np.ones(8, np.int64)), "must be floats"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_operator_and_the_fact_are_named(tmp_path, name):
    build, said = REFUSED[name]
    add = Maker(18)
    x = build(add, add.conv(add.input, 3, CHANNELS))
    label = add.nodes[-1].name
    path = add.save(tmp_path / "x.onnx", x)
    with pytest.raises(ValueError, match=said) as caught:
        load_onnx(path)
    assert label in str(caught.value)
    assert str(path) in str(caught.value)
