"""Layers that mix the images of a batch, whose labels a backbone cannot mix."""

from __future__ import annotations

import warnings

import keras

from tf_sphereface.utils.keras_private import all_layers


def warn_of_mixing(backbone: keras.Model) -> None:
    """Warn of `MixUp` and `CutMix` in a backbone: the labels stay those of one image."""
    mixing = (keras.layers.MixUp, keras.layers.CutMix)
    names = [layer.name for layer in all_layers(backbone) if isinstance(layer, mixing)]
    if names:
        warnings.warn(
            f"The backbone mixes images of different people ({', '.join(names)}), and the labels "
            "stay those of one: the losses here take one class per image. Use RandomErasing, or "
            "leave the layer out.",
            stacklevel=3,
        )
