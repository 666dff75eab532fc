"""Parts that the networks share: input checks, symmetric padding, and the size of a model."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import keras

from tf_sphereface.utils.checks import check_integer, error


def check_input_shape(input_shape: Sequence[int], *, minimum: int) -> tuple[int, int, int]:
    """Return `input_shape` as (height, width, channels), `minimum` pixels at least."""
    try:
        sides = [check_integer("input_shape", operator.index(side), 1) for side in input_shape]
        height, width, channels = sides
    except (TypeError, ValueError):
        text = "be three positive integers (height, width, channels), without a batch axis"
        raise error("input_shape", text, input_shape) from None
    if min(height, width) < minimum:
        text = f"be at least {minimum} pixels high and wide: the network halves an image four times"
        raise error("input_shape", text, input_shape)
    return height, width, channels


def check_counts(name: str, counts: Sequence[int], text: str, least: int = 1) -> tuple[int, ...]:
    """Return the argument `name` as four counts, each `least` or more; `text` says of what."""
    values = tuple(counts)
    if len(values) != 4 or not all(isinstance(n, int) and n >= least for n in values):
        raise error(name, f"be four counts of {text}", counts)
    return values


def embedding_dtype() -> str:
    """Return the dtype in which a network computes its embedding: that of its variables.

    Under `mixed_float16` and `mixed_bfloat16` this is float32. The cosine of two embeddings of
    bfloat16 (8 bits of mantissa) is coarser than the thresholds of verification, and a sum over
    21,504 float16 products may overflow. The other layers follow the global policy.
    """
    return str(keras.config.dtype_policy().variable_dtype)


def halve(x: Any, name: str) -> Any:
    """Pad an image map by one pixel on every side, for a "valid" 3x3 convolution of stride 2.

    Keras' own "same" pads an even size at the bottom and right only, which shifts the features by
    half a pixel against networks trained in Caffe or PyTorch.
    """
    return keras.layers.ZeroPadding2D(1, data_format="channels_last", name=name)(x)


def he_fan_out() -> keras.initializers.Initializer:
    """Return N(0, 2 / fan_out), as the PyTorch implementations begin."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )


def prelu(x: Any, name: str) -> Any:
    """Apply a PReLU with one slope per channel, 0.25 at first."""
    initializer = keras.initializers.Constant(0.25)
    return keras.layers.PReLU(initializer, shared_axes=[1, 2], name=name)(x)


def count_macs(model: keras.Model) -> int:
    """Count the multiply-accumulates of convolutions and dense layers for one image.

    A kernel is used once at every output position, so a layer costs its kernel's size times the
    positions of its output. Biases, activations, normalisation and additions are left out, as is
    usual in published figures. A layer that is called twice counts once; models inside the model
    are counted too. SphereFaceNet(20) at 112x96: 1,749,737,472.

    Raises:
        ValueError: an output shape is not fixed, such as with `input_shape=(None, None, 3)`.

    Example:

    >>> from tf_sphereface.backbones import SphereFaceNet
    >>> round(count_macs(SphereFaceNet(4)) / 1e9, 3)
    0.164
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += count_macs(layer)
            continue
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        positions = layer.output.shape[1:-1]
        if any(size is None for size in positions):
            raise ValueError(
                "Argument `model` must have a fixed image size to count its operations. "
                f"Received: layer {layer.name!r} with output shape {layer.output.shape}"
            )
        total += math.prod(kernel.shape) * math.prod(positions)
    return int(total)


def count_parameters(model: keras.Model) -> int:
    """Count the trainable scalars of a built model; batch statistics are not among them.

    Example:

    >>> from tf_sphereface.backbones import SphereFaceNet
    >>> count_parameters(SphereFaceNet(20))
    22666944
    """
    return int(sum(math.prod(weight.shape) for weight in model.trainable_weights))
