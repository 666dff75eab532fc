"""The files of a classifier: weights with the state of training, and what serves embeddings."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any, Self

import keras
import numpy as np

from tf_sphereface.classifier import serving
from tf_sphereface.classifier.state_building import StateBuilding
from tf_sphereface.classifier.weight_files import stored_optimizer
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.layer_checks import require_remakable
from tf_sphereface.utils.messages import SphereFaceWarning

logger = logging.getLogger("tf_sphereface")
_NO_HDF5 = (
    "A FaceClassifier is saved as a .keras file: in a .h5 file momentum and the count of updates, "
    "and so lambda, would be lost. Use model.save('model.keras'), or "
    "model.save_weights('model.weights.h5') for the weights and the optimizer's state."
)
_RANDOM_STATE, _UPDATES = "random_state_", "updates"
_ONNX_OPSET = 18  # the highest that tf2onnx writes


class ModelFiles(StateBuilding):
    """The part of `FaceClassifier` that reads and writes files."""

    optimizer: Any
    backbone: keras.Model
    _jit_requested: bool | str
    _updates_in_file = 0  # of weights that were loaded before `compile`

    def save(self, filepath: Any, *arguments: Any, **keywords: Any) -> None:
        """Save the model as a `.keras` file: configuration, weights, optimizer, random states.

        Raises:
            ValueError: the path ends in `.h5` or `.hdf5`. Keras' former format finds no class by
                its registered name, and loses the state of the optimizer. Or the backbone has a
                `Lambda`, with which nobody could open the file.
        """
        require_remakable("backbone", self.backbone)
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(f"{_NO_HDF5} Received: filepath={str(filepath)!r}")
        super().save(filepath, *arguments, **keywords)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `keras.Model`."""
        if keras_private.writes_hdf5():  # keras.saving.save_model(model, "model.h5")
            raise ValueError(_NO_HDF5)
        config: dict[str, Any] = super().get_config()
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Return the model that `get_config` described, with fresh weights."""
        config = dict(config)
        config["backbone"] = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile_from_config` needs, with this model's own `jit_compile`."""
        config = super().get_compile_config()
        if config:
            config["jit_compile"] = self._jit_requested
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model; its lambda goes on with the optimizer's count of updates."""
        loss = config.get("loss")
        if isinstance(loss, dict) and "step" in loss.get("config", {}):  # bound below, not held
            loss = {**loss, "config": {**loss["config"], "step": None}}
        config = keras.saving.deserialize_keras_object({**config, "loss": loss})
        self.compile(**config)
        self._build_optimizer()

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Load weights, and the optimizer's state where the file has it and the model can take it.

        Momentum, learning rate and the count of updates (and so lambda) go on as they were saved,
        if the model is compiled with the same optimizer. What starts again is said by a warning.

        Args:
            filepath: a `.weights.h5`, `.weights.json` or `.keras` file.
            skip_mismatch: leave out layers whose weights have another number or shape.
            **kwargs: as in `keras.Model.load_weights`.

        Raises:
            ValueError: the file holds the weights of another architecture.
        """
        stored = stored_optimizer(filepath)
        optimizer = self.optimizer if self.compiled else None
        if optimizer is None:
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
            self._updates_in_file = stored.updates if stored else 0
            return
        self._build_optimizer()
        sharded = str(filepath).endswith(".json")  # its state is loaded, and not looked at here
        fits = sharded or (stored is not None and stored.fits(optimizer))
        rate = _rate(optimizer)
        try:
            self.optimizer = optimizer if fits else None  # Keras would load a part of it
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        finally:
            self.optimizer = optimizer
        start_slots = getattr(self.head_layer, "start_slots", None)
        if not fits and stored is not None and start_slots is not None:
            start_slots()  # the file's are of its own optimizer
        if fits:
            self._say_what_goes_on(filepath, rate)
        elif stored is None:
            if getattr(self.loss, "needs_step", False):
                warnings.warn(
                    f"{filepath} holds no state of an optimizer: lambda goes on at update "
                    f"{_updates(optimizer)} of this model",
                    SphereFaceWarning,
                    stacklevel=2,
                )
        elif stored.updates:
            warnings.warn(
                f"{filepath} was saved with another optimizer or other trainable weights: "
                f"{_restart(stored.updates)}",
                SphereFaceWarning,
                stacklevel=2,
            )

    def save_own_variables(self, store: Any) -> None:
        """Save the random states of all layers, which Keras leaves out, beside own weights."""
        super().save_own_variables(store)
        if self.compiled:
            self._build_optimizer()  # is saved next; a loaded model has one that is built
            store[_UPDATES] = np.int64(_updates(self.optimizer))
        for number, state in enumerate(self._random_states()):
            store[f"{_RANDOM_STATE}{number}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; files of former versions hold nothing of it."""
        values = {key: store[key] for key in list(store.keys())}
        updates = int(np.asarray(values.pop(_UPDATES, 0)))
        self._updates_in_file = 0 if self.compiled else updates  # loaded with compile=False
        random = {key: values.pop(key) for key in list(values) if key.startswith(_RANDOM_STATE)}
        states = self._random_states()
        if len(random) == len(states):
            for number, state in enumerate(states):
                state.assign(random[f"{_RANDOM_STATE}{number}"])
        super().load_own_variables(values)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: serving.ServingFormat = "tf_saved_model",
        verbose: bool = False,
        *,
        opset_version: int = _ONNX_OPSET,
    ) -> None:
        """Write a SavedModel or an ONNX file that embeds as `predict` does, for a server.

        The file takes `image`, as the backbone takes it (normalised, unless the backbone does it),
        any number at once, and returns `embedding`, float32 `(n, embedding_dim)`, not of unit
        length; the head is left out. A SavedModel has them in its signature `serving_default`; its
        function `serve(images)` returns the embeddings. The file is run and compared with the
        model before it appears under its name, whole or not at all.

        For TensorFlow Lite, int8, uint8 pixels or metadata in the file: `export.export_tflite`
        and `export.export_onnx`.

        Args:
            filepath: a folder for a SavedModel, which replaces a SavedModel there; a file for ONNX.
            format: `"tf_saved_model"`, in the model's own precision, or `"onnx"`, in float32
                whatever that is (needs the `export` extra).
            verbose: print what Keras says of the file.
            opset_version: of ONNX.

        Raises:
            ValueError: another format; a folder that holds something else; a backbone with several
                inputs; the file gives other embeddings than the model.
            ImportError: ONNX without the `export` extra.

        Example:

        >>> import tensorflow as tf
        >>> from tf_sphereface import FaceClassifier
        >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> FaceClassifier(backbone, num_classes=3).export("served/1")
        >>> served = tf.saved_model.load("served/1")
        >>> served.serve(tf.zeros((2, 8))).shape
        TensorShape([2, 4])
        """
        serving.export(
            self.backbone, filepath, format, verbose=bool(verbose), opset_version=opset_version
        )

    def _random_states(self) -> list[Any]:
        weights = {id(variable) for variable in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def _say_what_goes_on(self, filepath: Any, rate: float | None) -> None:
        """Log how far the loaded optimizer is, and warn where its learning rate is another one."""
        logger.info("%s: going on after %d updates", filepath, _updates(self.optimizer))
        loaded = _rate(self.optimizer)
        if rate is not None and loaded != rate:
            warnings.warn(
                f"the learning rate is {loaded:g}, as in {filepath}; before it was {rate:g}. "
                f"For the other one: model.optimizer.learning_rate = {rate:g}",
                SphereFaceWarning,
                stacklevel=3,
            )

    def _say_what_restarts(self) -> None:
        """Warn where `compile` follows `load_weights`, so that training begins anew."""
        if self._updates_in_file and getattr(self.loss, "needs_step", False):
            warnings.warn(
                f"The weights were loaded before compile: {_restart(self._updates_in_file)}. "
                "To go on where they were saved, load the model without compile=False; of weights "
                "alone, call compile first, then load_weights.",
                SphereFaceWarning,
                stacklevel=3,
            )
        self._updates_in_file = 0


def _rate(optimizer: Any) -> float | None:
    """Return the learning rate where it is a variable, else None."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variables = [v for v in inner.variables if v.name == "learning_rate"]
    return float(variables[0].numpy()) if variables else None


def _updates(optimizer: Any) -> int:
    """Return the number of applied updates: a variable, or a tensor under accumulation."""
    return int(optimizer.iterations.numpy())


def _restart(updates: int) -> str:
    after = f" (the file was saved after {updates:,} updates)" if updates else ""
    return f"momentum and the count of updates, and with it lambda, start again{after}"
