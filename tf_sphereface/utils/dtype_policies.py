"""Copies of a model under another dtype policy."""

from __future__ import annotations

from typing import Any

import keras

from tf_sphereface.utils.keras_private import all_layers
from tf_sphereface.utils.layer_checks import require_graph, require_remakable


def computes_in_float32(model: keras.Model) -> bool:
    """Whether each layer of a model has the policy float32."""
    policies = {getattr(layer.dtype_policy, "name", "") for layer in all_layers(model)}
    return policies <= {"float32"}


def copy_in(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a functional model of Keras' layers, its weights too, under a dtype policy.

    The weights are float32 under each policy but `float16` and `bfloat16`. A layer keeps no policy
    of its own.
    """
    require_remakable("model", model)

    def copy(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            require_graph("model", layer)
            return keras.models.clone_model(layer, clone_function=copy)
        config = _full_precision(layer.get_config())
        if isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = "float32"
        elif isinstance(layer, keras.layers.Layer):  # not an operation, such as `a + b`
            config["dtype"] = policy
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=copy)
    clone.set_weights(model.get_weights())
    return clone


def _full_precision(config: Any) -> Any:
    """Return a configuration with float32 for policies and 16-bit floats, also in layers inside."""
    if isinstance(config, list | tuple):
        return type(config)(_full_precision(each) for each in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_half(value) else _full_precision(value)
        for key, value in config.items()
    }


def _is_half(dtype: Any) -> bool:
    return isinstance(dtype, dict) or "float16" in str(dtype)  # a dict is a policy
