"""Freezing the body of a network, or its normalisation, for a part of a run."""

from __future__ import annotations

from typing import Any

import keras

from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.utils.keras_private import all_layers


def freeze_normalization(network: keras.Model) -> int:
    """Freeze each `BatchNormalization`: statistics, scale and offset stay; return how many.

    They then normalise by their moving statistics in training too, as in inference.
    """
    layers = [x for x in all_layers(network) if isinstance(x, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.trainable = False
    return len(layers)


class Freezing(keras.callbacks.Callback):
    """Train the head alone in the first epochs, then the body as well.

    In the first `epochs` no weight and no statistic of the backbone changes, to the bit, and its
    normalisation works as in inference; dropout goes on. Then each layer is as it was when this
    was made: a layer that was not trainable stays so. The optimizer has to be built before, over
    all that is trained later: its count of updates, and so rate and lambda, go on over the change.

    Args:
        model: compiled, with an optimizer that is built.
        epochs: how many of the run's first epochs.
    """

    def __init__(self, model: FaceClassifier, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self._layers = [x for x in all_layers(model.backbone) if not isinstance(x, keras.Model)]
        self._trainable = [layer.trainable for layer in self._layers]
        self._frozen = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze or release the body where this epoch asks for another state."""
        frozen = epoch < self.epochs
        if frozen == self._frozen:
            return
        for layer, own in zip(self._layers, self._trainable, strict=True):
            layer.trainable = own and not frozen
        self._frozen = frozen
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the layers as they were."""
        self.on_epoch_begin(self.epochs)
