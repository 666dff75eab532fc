"""From images to predicted classes and their probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tf_sphereface.losses import SphereFace2Loss, head_output

_LARGEST_TABLE = 2**26  # entries, of the head's output


class ClassPredictions(keras.Model):
    """The part of `FaceClassifier` that names classes: `predict` gives embeddings."""

    def predict_classes(
        self, x: Any, batch_size: int | None = None, **kwargs: Any
    ) -> NDArray[np.int32]:
        """Return the class of each image: that of the nearest centre, int32 `(n,)`.

        `evaluate` counts these classes in its accuracy. Of the softmax head it is the largest
        logit.

        Args:
            x: images, or a dataset of them with labels or without, as for `predict`.
            batch_size: as for `predict`.
            **kwargs: `verbose`, `steps`, `callbacks` of `predict`.

        Example:

        >>> from tf_sphereface import FaceClassifier
        >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = FaceClassifier(backbone, num_classes=3)
        >>> model.predict_classes(np.ones((2, 8), "float32"), verbose=0).shape
        (2,)
        """
        tables = self._head_outputs(x, batch_size=batch_size, **kwargs)
        classes = [np.argmax(table[:, : self.num_classes], axis=1) for table in tables]
        return np.concatenate(classes).astype("int32")

    def predict_probabilities(
        self, x: Any, batch_size: int | None = None, **kwargs: Any
    ) -> NDArray[np.float32]:
        """Return the probability of each class as the loss was trained, without its margin.

        That is the softmax over `scale * cos(theta_j)`, with the scale of the loss that the model
        is compiled with; for `ASoftmaxLoss` over `||x|| cos(theta_j)`; for the softmax head over
        its logits. `SphereFace2Loss` decides for each class by itself: its probabilities do not
        sum to 1. They are about the people of the training set alone, and say nothing of others.

        Args:
            x: as for `predict_classes`.
            batch_size: as for `predict`.
            **kwargs: as for `predict_classes`.

        Returns:
            float32 `(n, num_classes)`.

        Raises:
            ValueError: the model is not compiled, so its scale is not known.

        Example:

        >>> from tf_sphereface import FaceClassifier
        >>> from tf_sphereface.losses import CosFaceLoss
        >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = FaceClassifier(backbone, num_classes=3)
        >>> model.compile(loss=CosFaceLoss(scale=30.0))
        >>> p = model.predict_probabilities(np.ones((2, 8), "float32"), verbose=0)
        >>> p.shape, bool(np.allclose(p.sum(axis=1), 1.0))
        ((2, 3), True)
        """
        if not self.compiled and self.head != "softmax":
            raise ValueError(
                "predict_probabilities needs the scale of the loss, and the model is not compiled. "
                "Call compile(loss=...) with the loss of the training, or load the model with "
                "compile=True. (predict_classes needs no loss.)"
            )
        tables = self._head_outputs(x, batch_size=batch_size, **kwargs)
        return np.concatenate([np.asarray(self._probabilities(table)) for table in tables])

    def _head_outputs(self, x: Any, **options: Any) -> Iterator[Any]:
        """Yield what the head returns, for some images at a time."""
        if (getattr(x, "shape", None) or (None,))[0] == 0:  # on which Keras' predict fails
            yield np.zeros((0, self.num_classes + 1), "float32")
            return
        embeddings = self.predict(x, **options)
        count = min(max(_LARGEST_TABLE // self.num_classes, 1), len(embeddings))
        for start in range(0, len(embeddings), count):
            yield self.head_layer(embeddings[start : start + count])

    def _probabilities(self, outputs: Any) -> Any:
        """Return the probabilities of what the head returned, `(batch, num_classes)`."""
        logits = outputs[:, : self.num_classes]
        if len(outputs) == 0:
            return logits
        loss = getattr(self, "loss", None)
        scale = getattr(loss, "scale", None)
        if self.head == "softmax" or scale is None:
            return ops.softmax(logits, axis=-1)
        cosines = head_output.cosines_of(outputs, self.num_classes)
        if not isinstance(loss, SphereFace2Loss):
            return ops.softmax(scale * cosines, axis=-1)
        similarities = 2.0 * ops.power(ops.maximum((cosines + 1.0) / 2.0, 0.0), loss.power) - 1.0
        return ops.sigmoid(scale * similarities + head_output.shared_bias_of(outputs)[:, None])
