"""Pixels on their way into a network: uint8 faces are normalised in the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_sphereface.utils.first_layers import own_normalization


def pixel_scaling(backbone: keras.Model) -> Callable[[Any], Any]:
    """Return the function that a backbone's inputs go through before it.

    It maps uint8 images to float32 `(x - 127.5) / 128`, as `face_dataset` does, and leaves all else
    as it is. So it leaves everything for a network that normalises pixels itself, takes integers,
    or has several inputs.

    Example:

    >>> image = keras.Input((8, 8, 3))
    >>> scale = pixel_scaling(keras.Model(image, keras.layers.Flatten()(image)))
    >>> scale(ops.zeros((1, 8, 8, 3), "uint8")).numpy().max()
    np.float32(-0.99609375)
    """
    inputs = getattr(backbone, "inputs", None) or []
    if (
        len(inputs) != 1
        or len(inputs[0].shape) != 4
        or not keras.backend.is_float_dtype(inputs[0].dtype)
        or own_normalization(backbone) is not None
    ):
        return lambda images: images
    return lambda images: keras.tree.map_structure(_normalized, images)  # alone, or in a dict


def _normalized(images: Any) -> Any:
    if keras.backend.standardize_dtype(getattr(images, "dtype", "float32")) != "uint8":
        return images
    return (ops.cast(images, "float32") - 127.5) * (1.0 / 128.0)
