"""ONNX operators with weights, and pooling, as Keras layers: convolution, dense, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_sphereface.importers.onnx_file import Node
from tf_sphereface.importers.onnx_network import OF_PIXELS, Network
from tf_sphereface.importers.onnx_values import (
    Value,
    channels_last,
    constant_beside,
    plain,
)

_Sides = list[tuple[int, int]]  # of rows and columns: how many are added before and behind


def convolution(network: Network, node: Node) -> Value:
    """`Conv`: a Conv2D, or a DepthwiseConv2D where each channel is a group."""
    x, kernel, bias = channels_last(_map(network, node)), network.weights(node, 1), None
    if kernel.ndim != 4:
        raise ValueError(f"its kernel must have two spatial axes, and has the shape {kernel.shape}")
    filters, per_group, *size = kernel.shape
    groups, channels = node.attributes.get("group", 1), x.tensor.shape[-1]
    if groups < 1 or per_group * groups != channels or filters % groups:
        raise ValueError(f"a kernel {kernel.shape} in {groups} groups, for {channels} channels")
    if network.constant(node, 2) is not None:
        bias = network.weights(node, 2)
    else:
        bias = network.term_behind(node, filters, 2)
    strides, dilations = (_pair(node, name) for name in ("strides", "dilations"))
    if max(strides) > 1 and max(dilations) > 1:
        raise ValueError(f"strides {strides} and dilations {dilations} together")
    reach = [(side - 1) * step + 1 for side, step in zip(size, dilations, strict=True)]
    x, padding = _padded(network, node, x, reach, strides)
    if size == [1, 1] and max(strides) > 1 and padding == "valid":
        # The same, picked out before: on some CPUs TensorFlow 2.21's oneDNN crashes in the gradient
        # of a 1x1 convolution with strides.
        pick = keras.layers.MaxPooling2D(1, tuple(strides), data_format="channels_last")
        x, strides = x.of(pick(x.tensor)), [1, 1]
    options: dict[str, Any] = {
        "kernel_size": tuple(size),
        "strides": tuple(strides),
        "dilation_rate": tuple(dilations),
        "padding": padding,
        "data_format": "channels_last",
        "use_bias": bias is not None,
    }
    if groups == channels and groups > 1 and strides[0] == strides[1]:
        options["depth_multiplier"] = filters // groups
        kernel = kernel.reshape(channels, -1, *size).transpose(2, 3, 0, 1)
        return network.layer(node, keras.layers.DepthwiseConv2D, x, kernel, bias, **options)
    options |= {"filters": filters, "groups": groups}
    kernel = kernel.transpose(2, 3, 1, 0)
    return network.layer(node, keras.layers.Conv2D, x, kernel, bias, **options)


def _map(network: Network, node: Node) -> Value:
    """Return the first input, which must be a map of features."""
    x = network.value(node)
    if len(x.axes) != 4:
        raise ValueError(f"its input must be a map, and has the shape {('n', *x.shape[1:])}")
    return x


def _pair(node: Node, name: str) -> list[int]:
    """Return an attribute of two positive integers, 1 where it is left out."""
    values = [int(value) for value in node.attributes.get(name, (1, 1))]
    if len(values) != 2 or min(values) < 1:
        raise ValueError(f"its {name} must be two positive integers, not {values}")
    return values


def _sides_added(node: Node, sides: Sequence[int], reach: list[int], strides: list[int]) -> _Sides:
    """Return how many rows and columns are added before and behind the map."""
    way = node.attributes.get("auto_pad", "NOTSET")
    if way in ("NOTSET", ""):
        top, left, bottom, right = (int(each) for each in node.attributes.get("pads", (0,) * 4))
        return [(top, bottom), (left, right)]
    if way == "VALID":
        return [(0, 0), (0, 0)]
    if way not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"its auto_pad is {way!r}")
    found = _same(sides, reach, strides)
    return found if way == "SAME_UPPER" else [(behind, before) for before, behind in found]


def _same(sides: Sequence[int], reach: list[int], strides: list[int]) -> _Sides:
    """Return what TensorFlow's "same" adds."""
    found = []
    for side, kernel, stride in zip(sides, reach, strides, strict=True):
        whole = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
        found.append((whole // 2, whole - whole // 2))
    return found


def _padded(
    network: Network, node: Node, x: Value, reach: list[int], strides: list[int]
) -> tuple[Value, str]:
    """Return the map with zeros around it, and the layer's own padding."""
    sides = x.tensor.shape[1:3]
    added = _sides_added(node, sides, reach, strides)
    if added == [(0, 0), (0, 0)]:
        return x, "valid"
    if added == _same(sides, reach, strides):
        return x, "same"
    return zero_padded(x, added), "valid"


def zero_padded(x: Value, added: _Sides) -> Value:
    """Return a map, its channel last, with rows and columns of zeros around it."""
    if min(map(min, added)) < 0:
        raise ValueError(f"it cuts the map, by {added}")
    if max(map(max, added)) > max(x.tensor.shape[1:3]) + 16:
        raise ValueError(f"it adds more than the map has, {added}")
    return x.of(keras.layers.ZeroPadding2D(tuple(added), data_format="channels_last")(x.tensor))


def dense(network: Network, node: Node) -> Value:
    """`Gemm` and `MatMul` with a constant matrix: a Dense layer."""
    x, kernel, bias = network.value(node), network.weights(node, 1), None
    scales = {name: float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta")}
    if node.attributes.get("transA"):
        raise ValueError("transA mixes the batch axis with others")
    kernel = (kernel.T if node.attributes.get("transB") else kernel) * scales["alpha"]
    if kernel.ndim != 2:
        raise ValueError(f"its matrix must have two axes, and has the shape {kernel.shape}")
    x = x if len(x.axes) == 2 else plain(x)
    order = x.order
    if x.tensor.shape[-1] != len(kernel):
        raise ValueError(f"a matrix {kernel.shape} for {x.tensor.shape[-1]} numbers")
    units = kernel.shape[1]
    if node.kind == "Gemm" and network.constant(node, 2) is not None:
        bias = np.broadcast_to(scales["beta"] * network.weights(node, 2), (1, units))[0]
    else:
        bias = network.term_behind(node, units, 0)
    made = network.layer(
        node,
        keras.layers.Dense,
        x,
        (kernel if order is None else kernel[order]).astype(np.float32),
        bias,
        units=units,
        use_bias=bias is not None,
    )
    return Value(made.tensor, x.axes)


def batch_normalization(network: Network, node: Node) -> Value:
    """`BatchNormalization`, with its statistics; of pixels, at the start, it is kept apart."""
    x = network.value(node)
    scale, offset, mean, variance = (network.weights(node, place) for place in (1, 2, 3, 4))
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if node.attributes.get("training_mode") or len(list(filter(None, node.outputs))) > 1:
        raise ValueError("it is of a network in training: export it after model.eval()")
    if (variance + epsilon <= 0).any():
        raise ValueError("its variances are negative")
    pixels = network.at_start(x) and not network.start.operators and mean.max() > OF_PIXELS
    if pixels and (scale > 0).all():
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        sides = (-1,) + (1,) * (len(x.axes) - 2)
        term = offset - mean * factor
        return network.affine(node, x, factor.reshape(sides), term.reshape(sides))
    x = channels_last(x)
    features = (x.tensor.shape[-1],)
    if any(each.shape != features for each in (scale, offset, mean, variance)):
        raise ValueError(f"its weights {scale.shape} are not one number per channel, {features}")
    order = x.order
    weights = [each if order is None else each[order] for each in (scale, offset, mean, variance)]
    momentum = float(node.attributes.get("momentum", 0.9))
    options = {"axis": -1, "momentum": momentum, "epsilon": epsilon}
    return network.layer(node, keras.layers.BatchNormalization, x, *weights, **options)


def prelu(network: Network, node: Node) -> Value:
    """`PRelu`: slopes per channel, one for all, or one for each number."""
    x, slope = network.value(node), network.weights(node, 1)
    if len(x.axes) == 4 and slope.shape == x.shape[1:2] != x.shape[3:]:
        slope = slope.reshape(-1, 1, 1)  # MXNet writes channels so; as columns they do not fit
    x, array = constant_beside(channels_last(x), slope)
    shared = [axis for axis in range(1, array.ndim) if array.shape[axis] == 1]
    return network.layer(node, keras.layers.PReLU, x, array[0], shared_axes=shared or None)


def max_pooling(network: Network, node: Node) -> Value:
    """`MaxPool`. Padding repeats what each window sees, for zeros could win."""
    x = channels_last(_map(network, node))
    kernel, strides = _window(node)
    added = _window_sides(node, x, kernel, strides)
    padding = "valid"
    if added == _same(x.tensor.shape[1:3], kernel, strides):
        padding = "same"  # by minus infinity
    elif added != [(0, 0), (0, 0)]:
        reflected = all(2 * max(each) < side for each, side in zip(added, kernel, strict=True))
        if not reflected or min(map(min, added)) < 0:
            raise ValueError(f"padding by {added} for a window of {kernel}")
        x = x.of(keras.ops.pad(x.tensor, [(0, 0), *added, (0, 0)], mode="reflect"))
    return _pooled(network, node, keras.layers.MaxPooling2D, x, (kernel, strides, padding))


def average_pooling(network: Network, node: Node) -> Value:
    """`AveragePool`, whose means count padding, or do not."""
    x = channels_last(_map(network, node))
    kernel, strides = _window(node)
    sides = list(x.tensor.shape[1:3])
    added = _window_sides(node, x, kernel, strides)
    padding = "valid"
    if added == [(0, 0), (0, 0)] and kernel == sides:
        return global_pooling(network, node)
    if added != [(0, 0), (0, 0)]:
        counted = bool(node.attributes.get("count_include_pad", 0))
        if counted and not node.attributes.get("ceil_mode", 0):
            x = zero_padded(x, added)
        elif not counted and added == _same(sides, kernel, strides):
            padding = "same"
        else:
            raise ValueError(f"padding by {added} that its means do not count")
    return _pooled(network, node, keras.layers.AveragePooling2D, x, (kernel, strides, padding))


def _window(node: Node) -> tuple[list[int], list[int]]:
    """Return the sides of a pooling window, and its strides."""
    if "kernel_shape" not in node.attributes or max(_pair(node, "dilations")) > 1:
        raise ValueError("a window without sides, or with dilations")
    if len(list(filter(None, node.outputs))) > 1:
        raise ValueError("its second output, the places of the maxima")
    return _pair(node, "kernel_shape"), _pair(node, "strides")


def _window_sides(node: Node, x: Value, kernel: list[int], strides: list[int]) -> _Sides:
    """Return the padding; with `ceil_mode` it goes on behind to a whole number of steps."""
    sides = x.tensor.shape[1:3]
    added = _sides_added(node, sides, kernel, strides)
    if not node.attributes.get("ceil_mode", 0):
        return added
    found = []
    for (before, behind), side, window, stride in zip(added, sides, kernel, strides, strict=True):
        steps = math.ceil((side + before + behind - window) / stride)
        if steps * stride >= side + before:  # the last window would begin behind the map
            steps -= 1
        found.append((before, max(behind, steps * stride + window - side - before)))
    return found


def _pooled(
    network: Network,
    node: Node,
    kind: Any,
    x: Value,
    window: tuple[list[int], list[int], str],
) -> Value:
    kernel, strides, padding = window
    return network.layer(
        node,
        kind,
        x,
        pool_size=tuple(kernel),
        strides=tuple(strides),
        padding=padding,
        data_format="channels_last",
    )


def global_pooling(network: Network, node: Node) -> Value:
    """`GlobalAveragePool` and `GlobalMaxPool`; a mean over rows and columns."""
    x = channels_last(_map(network, node))
    largest = node.kind == "GlobalMaxPool"
    kind = keras.layers.GlobalMaxPooling2D if largest else keras.layers.GlobalAveragePooling2D
    return network.layer(node, kind, x, data_format="channels_last", keepdims=True)
