"""The network as the converters get it: float32, no training-only parts, stable tensor names."""

from __future__ import annotations

from typing import Any

import keras

INPUT_NAME = "image"
OUTPUT_NAME = "embedding"


def inference_graph(backbone: keras.Model, input_size: tuple[int, int]) -> keras.Model:
    """Return a model for the converters that computes what `backbone` computes.

    It takes an input named `image` and returns a dict with the one key `embedding` (both become the
    tensors' names). A `Flatten` becomes a reshape to a constant shape: Keras' own asks for the
    batch size at run time, which costs four operators and splits a delegate's partition in two.

    Args:
        backbone: images (n, height, width, 3) to embeddings (n, embedding_dim), in float32 (the
            formats know no bfloat16; `in_float32` makes it so).
        input_size: height and width of the exported input, in pixels.

    Returns:
        A functional model with its own copy of the weights.

    Example:

    >>> image = keras.Input((8, 8, 3))
    >>> network = keras.Model(image, keras.layers.Flatten()(image))
    >>> list(inference_graph(network, (8, 8)).output)
    ['embedding']
    """
    copy = keras.models.clone_model(backbone, call_function=_call)
    copy.set_weights(backbone.get_weights())
    image = keras.Input((*input_size, 3), dtype="float32", name=INPUT_NAME)
    embedding = keras.tree.flatten(copy(image))[0]
    graph = keras.Model(image, {OUTPUT_NAME: embedding}, name=backbone.name)
    graph(keras.ops.zeros((1, *input_size, 3)))  # Keras exports only what has been called once
    return graph


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, keras.layers.Flatten) and layer.data_format == "channels_last":
        (tensor,) = args
        width = keras.layers.Flatten.compute_output_shape(layer, tensor.shape)[-1]
        if width is not None and len(tensor.shape) > 1:
            return keras.ops.reshape(tensor, (-1, width))
    return layer(*args, **kwargs)
