"""Channels scaled to like ranges before int8: the same network, rounded less."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_sphereface.utils import keras_private

FACES = 64  # of the calibration faces; a channel's range needs no more
BATCH = 4  # faces whose extremes are one sample of a channel's range
_LEAST = 1e-6  # of the largest range: a channel that is never used keeps a finite scale

# Layers f with f(s x) = s f(x) for any positive s per channel, channels last.
_HOMOGENEOUS = (
    keras.layers.PReLU,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Activation,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
    keras.layers.Flatten,
    keras.layers.Add,
)
_WEIGHTED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
    keras.layers.BatchNormalization,
)
_LINEAR = (keras.activations.linear, keras.activations.relu)


def equalized(network: keras.Model, images: np.ndarray) -> keras.Model:
    """Return a copy of a network whose channels have like ranges, and whose output is the same.

    int8 gives all channels of an activation one scale, so that a channel of a small range keeps few
    of the 256 steps. A channel's scale can be moved from the layer that makes it into the layers
    that take it, through PReLU, padding, pooling and sums. A depthwise layer takes it at no cost:
    its weights have a scale per channel. Where other weights take it, they share the burden by the
    square root. Tensors that an unknown layer touches, the input and the output stay as they are.

    Args:
        network: a functional model; any other is returned as a copy.
        images: as the network takes them, (n, height, width, 3), of which ranges are taken.

    Returns:
        A new model: embeddings differ by rounding in float32 alone.

    Example:

    ```python
    copy = equalized(backbone, (faces - 127.5) / 128)
    ```

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, equations 5 to 8 for the weights; Xiao et al., "SmoothQuant", ICML 2023, equation 4
    for the balance of activations and weights.
    """
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    groups = _groups(copy) if _calls_once(copy) else []
    if groups:
        _measure(copy, groups, images[:: -(-len(images) // FACES)])
    for group in groups:
        group.apply()
    return copy


def _calls_once(network: keras.Model) -> bool:
    """Whether a model is functional and calls each of its layers once."""
    if not keras_private.is_functional(network):
        return False
    return all(len(layer["inbound_nodes"]) <= 1 for layer in network.get_config()["layers"])


@dataclasses.dataclass
class _Group:
    """Tensors whose channels must be scaled alike, the layers that make them and take them."""

    tensors: list[Any]
    producers: list[keras.layers.Layer]
    consumers: list[keras.layers.Layer]
    ranges: np.ndarray

    def apply(self) -> None:
        """Divide every channel by its scale; the consumers' weights are multiplied by it."""
        if not np.isfinite(self.ranges).all() or not self.ranges.max() > 0:
            return
        scale = ranges = np.maximum(self.ranges, _LEAST * self.ranges.max())
        dense = [_weights(layer, len(scale)) for layer in self.consumers if not _per_channel(layer)]
        if dense:
            weights = np.max(dense, axis=0)
            scale = np.sqrt(ranges / np.maximum(weights, _LEAST * weights.max()))
        scale = scale / np.exp(np.log(scale).mean())
        for layer in self.producers:
            _divide_output(layer, scale)
        for layer in self.consumers:
            _multiply_input(layer, scale)


def _groups(network: keras.Model) -> list[_Group]:
    """Return the groups that may be scaled."""
    union = _Union()
    producers: dict[int, keras.layers.Layer] = {}
    consumers: list[tuple[Any, keras.layers.Layer]] = []
    tensors: dict[int, Any] = {}
    for operation in network.operations:
        inputs, outputs = (keras.tree.flatten(each) for each in (operation.input, operation.output))
        tensors |= {id(tensor): tensor for tensor in (*inputs, *outputs)}
        if isinstance(operation, keras.layers.InputLayer):
            union.freeze(outputs)
        elif _is_weighted(operation):
            producers[id(outputs[0])] = operation
            consumers.append((inputs[0], operation))
        elif _is_homogeneous(operation):
            union.join((*inputs, *outputs))
        elif isinstance(operation, keras.layers.Multiply):
            whole = [each for each in inputs if each.shape == outputs[0].shape]
            if len(whole) == 1:
                union.join((*whole, *outputs))
                union.freeze([each for each in inputs if each is not whole[0]])
            else:
                union.freeze((*inputs, *outputs))
        else:
            union.freeze((*inputs, *outputs))
    union.freeze(keras.tree.flatten(network.outputs))
    groups: dict[int, _Group] = {}
    for key, tensor in tensors.items():
        if not union.frozen(tensor):
            group = groups.setdefault(union.root(key), _Group([], [], [], np.zeros(0)))
            group.tensors.append(tensor)
            if key in producers:
                group.producers.append(producers[key])
    for tensor, layer in consumers:
        if not union.frozen(tensor):
            groups[union.root(id(tensor))].consumers.append(layer)
    return [group for group in groups.values() if group.producers and group.consumers]


class _Union:
    """Disjoint sets of tensors, some frozen."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._frozen: set[int] = set()

    def root(self, key: int) -> int:
        while self._parent.get(key, key) != key:
            key = self._parent[key]
        return key

    def join(self, tensors: Any) -> None:
        for tensor in tensors[1:]:
            self._parent[self.root(id(tensor))] = self.root(id(tensors[0]))

    def freeze(self, tensors: Any) -> None:
        self._frozen |= {id(tensor) for tensor in tensors}

    def frozen(self, tensor: Any) -> bool:
        root = self.root(id(tensor))
        return any(self.root(key) == root for key in self._frozen)


def _is_weighted(operation: Any) -> bool:
    if type(operation) not in _WEIGHTED:
        return False
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return False
    if isinstance(operation, keras.layers.BatchNormalization):
        return operation.gamma is not None and operation.axis in (
            -1,
            len(operation.output.shape) - 1,
        )
    if getattr(operation, "groups", 1) != 1 or getattr(operation, "depth_multiplier", 1) != 1:
        return False
    return operation.activation in _LINEAR


def _is_homogeneous(operation: Any) -> bool:
    if type(operation) not in _HOMOGENEOUS:
        return False
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return False
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value is None and not operation.threshold
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in _LINEAR
    if isinstance(operation, keras.layers.Add):
        return all(each.shape == operation.output.shape for each in operation.input)
    return True


def _per_channel(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (keras.layers.DepthwiseConv2D, keras.layers.BatchNormalization))


def _weights(layer: keras.layers.Layer, channels: int) -> np.ndarray:
    """Return the largest weight that each channel of the input meets."""
    kernel = np.abs(np.asarray(layer.kernel))
    return kernel.reshape(-1, channels, kernel.shape[-1]).max(axis=(0, 2))


def _divide_output(layer: keras.layers.Layer, scale: np.ndarray) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        scaled = [layer.gamma, layer.beta]
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        _multiply(layer.kernel, 1 / scale, axis=-2)
        scaled = [layer.bias]
    else:
        scaled = [layer.kernel, layer.bias]
    for weight in scaled:
        if weight is not None:
            _multiply(weight, 1 / scale, axis=-1)


def _multiply_input(layer: keras.layers.Layer, scale: np.ndarray) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        _multiply(layer.moving_mean, 1 / scale, axis=-1)
        _multiply(layer.gamma, scale, axis=-1)
    else:
        _multiply(layer.kernel, scale, axis=-2)


def _multiply(weight: keras.Variable, scale: np.ndarray, axis: int) -> None:
    """Multiply along an axis; that of a flattened map repeats the channels, which are last."""
    values = np.asarray(weight, np.float64)
    repeated = np.tile(scale, values.shape[axis] // len(scale))
    weight.assign(values * (repeated if axis == -1 else repeated[:, np.newaxis]))


def _measure(network: keras.Model, groups: list[_Group], images: np.ndarray) -> None:
    """Set each group's ranges: the batches' largest magnitudes, averaged, of all its tensors."""
    tensors = [tensor for group in groups for tensor in group.tensors]
    probe = keras.Model(network.inputs, [_largest(tensor) for tensor in tensors])
    batch = network.inputs[0].shape[0] or BATCH
    images = images[np.arange(max(len(images), batch)) % len(images)]
    samples = [
        keras.tree.flatten(probe.predict_on_batch(images[start : start + batch]))
        for start in range(0, len(images) - batch + 1, batch)
    ]
    largest = iter([np.mean(found, axis=0) for found in zip(*samples, strict=True)])
    for group in groups:
        each = [next(largest) for _ in group.tensors]
        channels = min(len(found) for found in each)
        group.ranges = np.max([f.reshape(-1, channels).max(axis=0) for f in each], axis=0)


def _largest(tensor: Any) -> Any:
    """Return the largest magnitude of every channel over a batch."""
    return keras.ops.max(keras.ops.abs(tensor), axis=tuple(range(len(tensor.shape) - 1)))
