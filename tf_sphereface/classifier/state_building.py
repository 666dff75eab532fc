"""Variables of optimizer and metrics, made before the first step is traced."""

from __future__ import annotations

from typing import Any

import keras

from tf_sphereface.utils import keras_private


class StateBuilding(keras.Model):
    """The part of `FaceClassifier` that has its variables before a step needs them.

    TensorFlow traces a function a second time where the first trace made variables, and Keras
    makes those of the optimizer and the metrics there.
    """

    def make_train_function(self, force: bool = False) -> Any:
        """Build optimizer and metrics first."""
        self._build_optimizer()
        self._build_metrics()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """Build the metrics first."""
        self._build_metrics()
        return super().make_test_function(force)

    def _build_optimizer(self) -> None:
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _build_metrics(self) -> None:
        embedding = (None, self.backbone.output_shape[-1])
        outputs = keras.KerasTensor(self.head_layer.compute_output_shape(embedding))
        with self.distribute_strategy.scope():
            keras_private.build_metrics(self, keras.KerasTensor((None,), "int32"), outputs)
