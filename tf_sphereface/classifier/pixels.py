"""Pixels on their way into a network: uint8 faces are normalised in the step itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_sphereface.utils.first_layers import OUT_OF_RANGE, own_normalization

logger = logging.getLogger("tf_sphereface")


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
    if not takes_normalized(backbone):
        return lambda images: images
    return lambda images: keras.tree.map_structure(_normalized, images)  # alone, or in a dict


def takes_normalized(backbone: keras.Model) -> bool:
    """Tell whether a network takes one image of floats, and does not normalise it itself."""
    inputs = getattr(backbone, "inputs", None) or []
    return (
        len(inputs) == 1
        and len(inputs[0].shape) == 4
        and keras.backend.is_float_dtype(inputs[0].dtype)
        and own_normalization(backbone) is None
    )


def may_be_raw(backbone: keras.Model, images: Any) -> bool:
    """Tell whether a network's images, by their type and shape, may be pixels from 0 to 255."""
    shape = tuple(getattr(images, "shape", None) or ())
    return (
        len(shape) == 4
        and shape[3] == 3
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(images.dtype))
        and takes_normalized(backbone)
    )


def say_raw(low: float, high: float) -> None:
    """Log that a step was fed with pixels from 0 to 255, where its images were."""
    if low >= 0 and high > OUT_OF_RANGE:
        logger.warning(
            "the network is trained on images of floats from %.4g to %.4g, as "
            "keras.utils.image_dataset_from_directory makes them. Floats are taken as they are, "
            "uint8 images are normalised: the trained network fits no other faces here. "
            "Give it normalised images, (x - 127.5) / 128, or uint8 ones "
            "(dataset.map(lambda x, y: (tf.cast(x, tf.uint8), y)))",
            low,
            high,
        )


def _normalized(images: Any) -> Any:
    if keras.backend.standardize_dtype(getattr(images, "dtype", "float32")) != "uint8":
        return images
    return (ops.cast(images, "float32") - 127.5) * (1.0 / 128.0)
