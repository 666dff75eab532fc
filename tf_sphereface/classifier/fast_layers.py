"""Faster stand-ins for stock layers in training steps, chosen by device and by XLA.

Such a step is bound by memory as much as by arithmetic. Keras computes batch normalisation and
PReLU, and their gradients, by a dozen elementwise operations, each of which reads and writes a
whole map; in a MobileFaceNet on a CPU they took longer than the convolutions, and under XLA they
were half of what it has to compile. The stand-ins compute the same:

- batch normalisation by TensorFlow's fused operation and its gradient: statistics in one pass; on a
  GPU without XLA by two small XLA functions;
- PReLU and its gradient as one selection each, without XLA in small XLA functions of their own;
- a 1x1 convolution, with strides or without, as the matrix product that it is, in the layout that
  it finds;
- a depthwise convolution as large as its map as a product and a sum;
- on a GPU a depthwise 3x3 convolution as nine shifted products, with a gradient that is such a sum
  again.

`STAND_INS` says which of them a step takes. The model keeps its stock layers: they hold the
weights, and they are what is saved and exported.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_sphereface.classifier import shifted_convolution, small_normalization
from tf_sphereface.classifier.replicas import replica_count
from tf_sphereface.utils.debugging import is_debugged
from tf_sphereface.utils.keras_private import all_layers, is_functional

logger = logging.getLogger("tf_sphereface")


class Target(NamedTuple):
    """What a training step runs on: "CPU" or "GPU", and whether XLA compiles the whole of it."""

    device: str
    xla: bool


def for_training(network: keras.Model, target: Target) -> keras.Model:
    """Return a network over the same weights that trains faster on a target.

    In a functional model, and in functional models inside it, layers of exactly Keras' own classes
    are replaced, where channels are last and the dtype is one of `DTYPES`. Layers with a mask, and
    with other settings than `fits` knows, stay. A network in which nothing can be replaced, as a
    Sequential or a subclassed model, is returned itself.

    Example:

    >>> image = keras.Input((8, 8, 3))
    >>> network = keras.Model(image, keras.layers.PReLU(shared_axes=[1, 2])(image))
    >>> for_training(network, Target("CPU", xla=True)).weights[0] is network.weights[0]
    True
    """
    return _faster(network, target, {})


def training_call(backbone: keras.Model, xla: bool) -> Callable[..., Any]:
    """Return what computes the embeddings of a training step on this machine; log what is replaced.

    It is a bound method, in which Keras does not look for weights: they are the backbone's.
    """
    target = Target("GPU" if tf.config.list_physical_devices("GPU") else "CPU", xla)
    network = for_training(backbone, target)
    kinds = Counter(type(x).__name__ for x in all_layers(network) if isinstance(x, StandIn))
    counts = ", ".join(f"{count} {name}" for name, count in kinds.items())
    logger.info("layers with faster stand-ins: %s", counts or "none")
    return network.__call__


def _faster(network: keras.Model, target: Target, substitutes: dict[Any, Any]) -> keras.Model:
    """Do so for one network; `substitutes` are those of the whole backbone, by the layer's id.

    A layer or a network that is called several times has one substitute, called as often.
    """
    if not is_functional(network):
        return network
    replaced = False

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal replaced
        substitute = layer
        # A mask, or a layer that the network itself keeps from training, is the layer's business.
        if len(arguments) == 1 and all(value is None for value in keywords.values()):
            substitute = _substitute(layer, arguments[0], target, substitutes)
        replaced |= substitute is not layer
        return layer(*arguments, **keywords) if substitute is layer else substitute(*arguments)

    fast = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
    if not replaced:
        return network
    fast.name = _name(network)
    return fast


def _name(layer: Any) -> str:
    """Return a substitute's name: another call of the layer may keep the layer beside it."""
    return f"{layer.name}_for_training"


def _substitute(layer: Any, inputs: Any, target: Target, substitutes: dict[Any, Any]) -> Any:
    """Return what stands in for a layer in a call on `inputs`: often the layer itself."""
    if is_functional(layer):
        if id(layer) not in substitutes:
            substitutes[id(layer)] = _faster(layer, target, substitutes)
        return substitutes[id(layer)]
    kinds = STAND_INS[target].get(type(layer), ())
    if (
        not kinds
        or layer.compute_dtype not in DTYPES[target]
        or layer.variable_dtype != "float32"
        or layer.activity_regularizer is not None
        or getattr(layer, "quantization_mode", None) is not None
    ):
        return layer
    for kind in kinds:
        if kind.fits(layer, tuple(inputs.shape)):
            # A layer that is called on maps of two sizes may have a stand-in for each.
            return substitutes.setdefault((id(layer), kind), kind(layer, target))
    return layer


class StandIn(keras.layers.Layer):
    """A layer that computes what `layer` does, from its weights, and has none of its own."""

    def __init__(self, layer: keras.layers.Layer, target: Target) -> None:
        super().__init__(name=_name(layer), dtype=layer.dtype_policy)
        self.layer, self.target = layer, target
        self.built = True

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        """Whether the stand-in knows the layer's settings, for inputs of this shape."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(self.layer.compute_output_shape(input_shape))


class PReLU(StandIn):
    """`max(0, x) + alpha min(0, x)` with a slope for each channel; at 0 the gradient is 0."""

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        rank = len(layer.alpha.shape)
        last_is_shared = {0, rank} & set(layer.shared_axes or ())  # Keras takes 0 for the last
        return layer.alpha.shape[:-1] == (1,) * (rank - 1) and not last_is_shared

    def call(self, inputs: Any) -> Any:
        slopes = tf.cast(tf.convert_to_tensor(self.layer.alpha), inputs.dtype)
        prelu = _prelu_inside_xla if self.target.xla else _prelu
        return prelu(inputs, tf.reshape(slopes, [-1]))


@tf.custom_gradient
def _prelu(x: Any, slopes: Any) -> tuple[Any, Callable[..., tuple[Any, Any]]]:
    """Return PReLU with its gradient, each in one small XLA function."""
    forward, backward = _prelu_functions(x.shape[1:], x.dtype, not is_debugged())

    def gradient(upstream: Any) -> tuple[Any, Any]:
        to_x, to_slope = backward(x, slopes, upstream)
        return to_x, _channel_sums(to_slope)

    return forward(x, slopes), gradient


@tf.custom_gradient
def _prelu_inside_xla(x: Any, slopes: Any) -> tuple[Any, Callable[..., tuple[Any, Any]]]:
    """Return the same for a step that XLA compiles: the fewer operations, the sooner it is done."""
    zeros = tf.zeros_like(x)
    slope = tf.where(x < zeros, slopes, tf.sign(x))  # the sign is 1 above 0, and 0 at 0

    def gradient(upstream: Any) -> tuple[Any, Any]:
        return upstream * slope, _channel_sums(upstream * tf.minimum(x, zeros))

    return x * slope, gradient


def _channel_sums(x: Any) -> Any:
    """Sum over all axes but the last, with float32 sums of 16-bit values.

    XLA's sum over rows takes one thread on a CPU, TensorFlow's all of them.
    """
    return tf.reduce_sum(x, axis=list(range(len(x.shape) - 1)))


@functools.cache
def _prelu_functions(shape: tf.TensorShape, dtype: tf.DType, xla: bool) -> tuple[Any, Any]:
    """Return both passes for one shape: shared by all shapes they would be traced too often."""

    @tf.function(jit_compile=xla, autograph=False)
    def forward(x: Any, slopes: Any) -> Any:
        return tf.where(x > 0, x, x * slopes)

    @tf.function(jit_compile=xla, autograph=False)
    def backward(x: Any, slopes: Any, upstream: Any) -> tuple[Any, Any]:
        nothing = tf.zeros([], dtype)
        below = tf.where(x < 0, upstream, nothing)
        return tf.where(x > 0, upstream, below * slopes), below * x

    return forward, backward


class BatchNormalization(StandIn):
    """Normalisation by the batch's own mean and variance, which move the averages.

    Frozen layers, synchronised ones under several replicas, and evaluation take the stock layer.
    """

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        last = layer.axis in (3, -1) and layer.input_spec.ndim == 4
        return last and not getattr(layer, "renorm", False)

    def normalises(self, training: bool | None) -> bool:
        """Whether this call is one by the batch's own statistics, and by this replica's alone."""
        layer = self.layer
        alone = not layer.synchronized or replica_count() == 1
        return bool(training) and layer.trainable and alone

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        layer = self.layer
        if not self.normalises(training):
            return layer(inputs, training=training)
        channels = tuple(layer.moving_mean.shape)
        dtype, shift = inputs.dtype, None
        if self.target.xla:
            # XLA's variance is a difference of two means of squares, in which the digits are lost
            # if a channel's mean is much larger than its deviation. Any value of the channel will
            # do as origin: the outputs do not depend on it.
            inputs = tf.cast(inputs, "float32")
            shift = tf.stop_gradient(inputs[0, 0, 0])
            inputs -= shift
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones(channels),
            offset=tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros(channels),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=layer.epsilon,
            is_training=True,
        )
        mean = mean if shift is None else mean + shift
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        # The operation divides by count - 1 for the average (not for the outputs), Keras by count.
        variance *= tf.maximum(count - 1.0, 1.0) / count
        for average, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            new = tf.stop_gradient(value)
            average.assign(average * layer.momentum + new * (1.0 - layer.momentum))
        return tf.cast(outputs, dtype)


class SmallNormalization(BatchNormalization):
    """The same in two small XLA functions: what TensorFlow's operation takes on a GPU is more."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        layer = self.layer
        if not self.normalises(training):
            return layer(inputs, training=training)
        averages = layer.moving_mean, layer.moving_variance
        channels = tuple(layer.moving_mean.shape)
        normalise = small_normalization.normalization(
            layer.epsilon, layer.momentum, (inputs.shape[1:], inputs.dtype), not is_debugged()
        )
        outputs, *new = normalise(
            inputs,
            tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones(channels),
            tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros(channels),
            *(tf.convert_to_tensor(average) for average in averages),
        )
        for average, value in zip(averages, new, strict=True):
            average.assign(tf.stop_gradient(value))
        return outputs


class PointwiseConvolution(StandIn):
    """A 1x1 convolution: the channels of each pixel, or of each second one, times one matrix.

    With strides this is also safer: TensorFlow's gradient to such a kernel writes past the end of
    its memory on some CPUs with oneDNN, and may end the process (seen in 2.21: float32, stride 2,
    maps of 14x14, 28x24 and 56x56 with 1 to 8 channels; not with 16 and more).
    """

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        return (
            (layer.kernel_size, layer.groups) == ((1, 1), 1)
            and layer.data_format == "channels_last"
            and not getattr(layer, "lora_enabled", False)
        )

    def call(self, inputs: Any) -> Any:
        kernel = tf.cast(tf.convert_to_tensor(self.layer.kernel), inputs.dtype)[0, 0]
        down, across = self.layer.strides
        if (down, across) != (1, 1):
            inputs = inputs[:, ::down, ::across]
        rows = tf.matmul(tf.reshape(inputs, [-1, kernel.shape[0]]), kernel)
        outputs = tf.reshape(rows, tf.concat([tf.shape(inputs)[:-1], kernel.shape[1:]], 0))
        return _finish(self.layer, outputs)


class WholeMapConvolution(StandIn):
    """A depthwise convolution whose kernel covers the map: one weighted sum per channel."""

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        return (
            layer.data_format == "channels_last"
            and (layer.padding, layer.depth_multiplier) == ("valid", 1)
            and tuple(layer.dilation_rate) == (1, 1)
            and shape[1:3] == tuple(layer.kernel_size)
        )

    def call(self, inputs: Any) -> Any:
        kernel = tf.cast(tf.convert_to_tensor(self.layer.kernel), inputs.dtype)[..., 0]
        return _finish(self.layer, tf.reduce_sum(inputs * kernel, axis=[1, 2], keepdims=True))


class ShiftedConvolution(StandIn):
    """A depthwise 3x3 convolution: nine products of the shifted map with a filter's values."""

    @staticmethod
    def fits(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> bool:
        return (
            layer.data_format == "channels_last"
            and layer.depth_multiplier == 1
            and layer.padding in ("same", "valid")
            and tuple(layer.kernel_size) == (3, 3)
            and tuple(layer.dilation_rate) == (1, 1)
            and tuple(layer.strides) in ((1, 1), (2, 2))
            and all(side is not None and side >= 3 for side in shape[1:3])
        )

    def call(self, inputs: Any) -> Any:
        kernel = tf.cast(tf.convert_to_tensor(self.layer.kernel), inputs.dtype)[..., 0]
        whole = self.target.xla or is_debugged()
        apart = None if whole else (inputs.shape[1:], inputs.dtype)
        convolve = shifted_convolution.convolution(
            self.layer.strides[0], self.layer.padding == "same", apart
        )
        return _finish(self.layer, convolve(inputs, kernel))


def _finish(layer: keras.layers.Layer, outputs: Any) -> Any:
    """Add the bias and apply the activation."""
    if layer.use_bias:
        outputs += tf.cast(tf.convert_to_tensor(layer.bias), outputs.dtype)
    return outputs if layer.activation is None else layer.activation(outputs)


_EVERYWHERE: dict[type, tuple[type[StandIn], ...]] = {
    keras.layers.PReLU: (PReLU,),
    keras.layers.BatchNormalization: (BatchNormalization,),
    keras.layers.DepthwiseConv2D: (WholeMapConvolution,),
}
_ON_A_GPU = {
    **_EVERYWHERE,
    keras.layers.DepthwiseConv2D: (WholeMapConvolution, ShiftedConvolution),
}
STAND_INS: dict[Target, dict[type, tuple[type[StandIn], ...]]] = {
    Target("CPU", False): {**_EVERYWHERE, keras.layers.Conv2D: (PointwiseConvolution,)},
    Target("CPU", True): dict(_EVERYWHERE),
    Target("GPU", False): {**_ON_A_GPU, keras.layers.BatchNormalization: (SmallNormalization,)},
    Target("GPU", True): dict(_ON_A_GPU),
}
"""The one place that chooses, by target and Keras' class: of several kinds the first that fits.

`ShiftedConvolution` makes a GPU's step faster, with XLA and without, and its first step sooner
(docs/results/gpu.md). On a CPU it takes an eighth off a MobileFaceNet's XLA step and adds half to
the time that the step takes to compile (measured here).
"""
DTYPES: dict[Target, tuple[str, ...]] = dict.fromkeys(STAND_INS, ("float32", "bfloat16", "float16"))
"""Types of the layers that are replaced."""
DTYPES[Target("CPU", False)] = ("float32", "bfloat16")  # its kernels for float16 are slow
