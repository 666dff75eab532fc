"""The first layers of a network: what takes its image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tf_sphereface.utils.keras_private import calls_on

OUT_OF_RANGE = 20.0  # normalised images lie in [-1, 1] or, by mean and deviation, in about [-5, 5]
# Layers and operations that bring pixels into another range, where their other operand is constant.
_NORMALIZING = (
    "Rescaling",
    "Normalization",
    "Subtract",
    "Divide",
    "TrueDivide",
    "Multiply",
    "Add",
    "Lambda",
)
# Those that leave the range as it is, beside all `Random...` of Keras.
_PASSING = (
    "RandAugment",
    "AugMix",
    "AutoContrast",
    "Equalization",
    "Solarization",
    "Cast",
    "Identity",
    "GetItem",
    "Take",
    "Flip",
    "Transpose",
    "Permute",
    "Pad",
    "ZeroPadding2D",
    "CenterCrop",
    "Cropping2D",
    "Resizing",
)


def input_chain(model: keras.Model) -> Iterator[keras.Model]:
    """Yield a network with one input, then the network that alone takes its image, and so on."""
    while True:
        yield model
        takers = {id(operation): operation for operation, *_ in calls_on(model, model.inputs[0])}
        if len(takers) != 1:
            return
        (model,) = takers.values()
        if not isinstance(model, keras.Model) or len(model.inputs or []) != 1:
            return


def own_normalization(model: keras.Model) -> str | None:
    """Return the layer with which a network normalises its pixels itself, None where it has none.

    Networks inside the network are looked into. A first batch normalisation does not count: it may
    have been trained on any pixels.

    Example:

    >>> layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255, name="to_one")]
    >>> own_normalization(keras.Sequential([*layers, keras.layers.Flatten()]))
    "Rescaling 'to_one'"
    """
    return _normalization_of(model, model.inputs[0])


def _normalization_of(model: keras.Model, tensor: Any) -> str | None:
    for operation, outputs, operands in calls_on(model, tensor):
        kind = type(operation).__name__
        found = None
        if kind in _NORMALIZING and operands == 1:
            return f"{kind} {operation.name!r}"
        if isinstance(operation, keras.Model):
            if len(operation.inputs or []) == 1:
                found = own_normalization(operation)
                if found is None and _passes(operation, operation.inputs[0]):
                    found = _normalization_of(model, outputs[0])
        elif _keeps_range(kind) and operands == 1:
            found = _normalization_of(model, outputs[0])
        if found is not None:
            return found
    return None


def _keeps_range(kind: str) -> bool:
    return kind in _PASSING or kind.startswith("Random")


def _passes(model: keras.Model, tensor: Any) -> bool:
    """Tell whether a network hands a tensor to its output by layers that keep the range."""
    if any(tensor is output for output in model.outputs):
        return True
    return any(
        _keeps_range(type(operation).__name__) and _passes(model, outputs[0])
        for operation, outputs, operands in calls_on(model, tensor)
        if operands == 1
    )
