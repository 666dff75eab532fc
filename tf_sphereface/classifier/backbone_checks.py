"""Checks of the network that a classifier is to train."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tf_sphereface.utils.keras_private import all_layers
from tf_sphereface.utils.layer_checks import require_graph
from tf_sphereface.utils.messages import SphereFaceWarning


def embedding_shape(backbone: Any) -> tuple[int | None, int]:
    """Return the shape of a backbone's output; raise where it is not one vector per image."""
    shape = getattr(backbone, "output_shape", None)
    if isinstance(shape, tuple) and len(shape) == 2 and shape[-1] is not None:
        return shape
    if isinstance(backbone, keras.Model):
        require_graph("backbone", backbone)
    raise ValueError(
        "Argument `backbone` must be a built Keras model with one output of shape "
        f"(batch, embedding_dim). Received: backbone={backbone!r} with output {shape}"
    )


def warn_of_mixing(backbone: keras.Model) -> None:
    """Warn of `MixUp` and `CutMix` in a backbone: the labels stay those of one image."""
    mixing = (keras.layers.MixUp, keras.layers.CutMix)
    names = [layer.name for layer in all_layers(backbone) if isinstance(layer, mixing)]
    if names:
        warnings.warn(
            f"The backbone mixes images of different people ({', '.join(names)}), and the labels "
            "stay those of one: the losses here take one class per image. Use RandomErasing, or "
            "leave the layer out.",
            SphereFaceWarning,
            stacklevel=3,
        )
