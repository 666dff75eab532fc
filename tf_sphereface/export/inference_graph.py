"""The network as the converters get it: float32, no training-only parts, stable tensor names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.export.options import FileOptions

INPUT_NAME = "image"
OUTPUT_NAME = "embedding"
_LEAST_SQUARED_NORM = 1e-24  # a zero embedding stays zero


def inference_graph(
    backbone: keras.Model,
    input_size: tuple[int, int],
    options: FileOptions,
    network: EmbedderMetadata,
) -> keras.Model:
    """Return a model with its own weights that computes what `backbone` computes, and `options`.

    It takes an input named `image` and returns a dict with the one key `embedding` (both become the
    tensors' names). A `Flatten` becomes a reshape to a constant shape: Keras' own asks for the
    batch size at run time, which costs four operators and splits a delegate's partition in two.
    A convolution in groups is TensorFlow's own operation: Keras' is compiled by XLA, which no
    converter to ONNX can read. The backbone must be in float32 (`in_float32` makes it so): the
    formats know no bfloat16.
    """
    copy = keras.models.clone_model(backbone, clone_function=_clone, call_function=_call)
    copy.set_weights(backbone.get_weights())
    first = options.layout == "nchw"
    shape = (3, *input_size) if first else (*input_size, 3)
    image = keras.Input(shape, dtype=options.input_dtype, batch_size=options.batch, name=INPUT_NAME)
    x = _pixels(image, options, network, first)
    if options.flip_concat:
        x = _with_mirror(x, shape, first)
    if first:
        x = keras.ops.transpose(x, (0, 2, 3, 1))
    embedding = keras.tree.flatten(copy(x))[0]
    if options.flip_concat:
        embedding = keras.ops.reshape(embedding, (-1, 2 * embedding.shape[-1]))
    if options.normalize:
        squared = keras.ops.sum(embedding * embedding, axis=-1, keepdims=True)
        embedding = embedding / keras.ops.sqrt(keras.ops.maximum(squared, _LEAST_SQUARED_NORM))
    return keras.Model(image, {OUTPUT_NAME: embedding}, name=backbone.name)


def _pixels(image: Any, options: FileOptions, network: EmbedderMetadata, first: bool) -> Any:
    """Turn uint8 RGB pixels into what the network was trained on; leave a float input alone."""
    if options.input_dtype != "uint8":
        return image
    x = keras.ops.cast(image, "float32")
    if network.channel_order == "bgr":
        x = _reversed(x, 1 if first else 3)
    mean, scale = _constant(network.pixel_mean, first), _constant(network.pixel_scale, first)
    # A product, for division is slow. The difference is exact, also in float16 (mean 127.5).
    return (x - mean) * (1.0 / scale)


def _constant(value: float | tuple[float, ...], first: bool) -> Any:
    """Return a number, or three numbers that broadcast over the image."""
    if isinstance(value, tuple):
        return np.reshape(np.asarray(value, np.float32), (3, 1, 1) if first else (1, 1, 3))
    return value


def _with_mirror(x: Any, shape: tuple[int, int, int], first: bool) -> Any:
    """Return (2 n, ...): each image, then its mirror image.

    They are joined along the rows and cut apart by a reshape, which needs no batch size at run
    time. With channels first the first axis to join along is the channels'.
    """
    mirrored = _reversed(x, 3 if first else 2)
    return keras.ops.reshape(keras.ops.concatenate([x, mirrored], axis=1), (-1, *shape))


def _reversed(x: Any, axis: int) -> Any:
    """Turn an axis around by its indices: OpenCV knows no slice with a negative step."""
    return keras.ops.take(x, np.arange(x.shape[axis])[::-1].astype("int32"), axis=axis)


def inference_function(graph: keras.Model) -> Any:
    """Return a `tf.function` of an inference graph, traced for its own input shape.

    Keras' `export` looks through every object of the model for what it has to save, which takes
    longer than a conversion.
    """
    image = graph.inputs[0]

    def embed(image: Any) -> dict[str, Any]:
        return dict(graph(image, training=False))

    spec = tf.TensorSpec(image.shape, image.dtype, name=INPUT_NAME)
    return tf.function(embed, input_signature=[spec])


class GroupedConvolution(keras.layers.Conv2D):
    """`Conv2D` in groups, as one operation of TensorFlow; channels last."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Return the convolution without its bias."""
        return tf.nn.conv2d(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding.upper(),
            dilations=list(self.dilation_rate),
        )


def _clone(layer: keras.layers.Layer) -> keras.layers.Layer:
    plain = type(layer) is keras.layers.Conv2D and layer.data_format == "channels_last"
    kind = GroupedConvolution if plain and layer.groups > 1 else type(layer)
    return kind.from_config(layer.get_config())


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, keras.layers.Flatten) and layer.data_format == "channels_last":
        (tensor,) = args
        width = keras.layers.Flatten.compute_output_shape(layer, tensor.shape)[-1]
        if width is not None and len(tensor.shape) > 1:
            return keras.ops.reshape(tensor, (-1, width))
    return layer(*args, **kwargs)
