"""The choice between XLA and TensorFlow's own kernels for a training step, and its reason."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface.utils.checks import error
from tf_sphereface.utils.debugging import is_debugged
from tf_sphereface.utils.keras_private import all_layers, input_structure, renumber_functions
from tf_sphereface.utils.messages import SphereFaceWarning, and_more

# Layers that XLA compiles with any settings; a network of others is tried out.
_KNOWN = {
    keras.layers.Add,
    keras.layers.AlphaDropout,
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianNoise,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.Multiply,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.SeparableConv2D,
    keras.layers.SpatialDropout2D,
    keras.layers.UnitNormalization,
    keras.layers.ZeroPadding2D,
}
_UNKNOWN_SIDE = 64  # pixels, to try out a network that takes images of any size
_SHOWN = 5  # names in a message
_LONGEST_REASON = 200  # characters of TensorFlow's own message


def decide(
    jit_compile: bool | str,
    run_eagerly: bool,
    backbone: keras.Model,
    replicas: int,
    loss: Any = None,
) -> tuple[bool, str]:
    """Return whether the step runs under XLA, and the reason in words.

    A backbone that XLA cannot compile, as one with `RandomRotation`, trains without it; where
    `jit_compile=True` asked for it, a warning says so.
    """
    if jit_compile not in (True, False, "auto"):
        raise error("jit_compile", "be True, False or 'auto'", jit_compile)
    if run_eagerly:
        return False, "off, run_eagerly=True"
    if jit_compile is False:
        return False, "off, jit_compile=False"
    synchronised = [
        layer.name
        for layer in all_layers(backbone)
        if replicas > 1 and getattr(layer, "synchronized", False) is True
    ]
    summing = replicas > 1 and getattr(loss, "sums_over_replicas", False)
    if jit_compile is True:
        if summing:
            raise ValueError(
                f"jit_compile=True cannot be had with {type(loss).__name__} over {replicas} "
                "replicas: its statistics are sums over the replicas in the middle of the step, "
                "where XLA has no such sum. Use jit_compile=False or 'auto'. "
                f"Received: jit_compile={jit_compile}"
            )
        if synchronised:
            raise ValueError(
                "jit_compile=True cannot be had with synchronised batch normalisation over "
                f"{replicas} replicas: it sums over the replicas in the middle of the step, where "
                "XLA has no such sum. Use jit_compile=False, or BatchNormalization("
                f"synchronized=False). Received: synchronised layers {synchronised[:5]}"
            )
        obstacle = _obstacle(backbone)
        if obstacle:
            warnings.warn(
                f"jit_compile=True has no effect: XLA cannot compile {obstacle}. The model trains "
                "without XLA. To train with it, take the layer out of the backbone and apply it "
                "in the input pipeline: dataset.map(lambda x, y: (layer(x, training=True), y)).",
                SphereFaceWarning,
                stacklevel=3,
            )
            return False, f"off, it cannot compile {obstacle}"
        return True, "on, jit_compile=True"
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus:
        return False, "off, no GPU (on a CPU it is slower than without)"
    if is_debugged():
        return False, "off, TensorFlow's debugging is on, which XLA cannot compile"
    if summing:
        return False, f"off, {type(loss).__name__} sums over the replicas"
    if synchronised:
        return False, f"off, {len(synchronised)} synchronised batch normalisations over replicas"
    obstacle = _obstacle(backbone)
    if obstacle:
        return False, f"off, it cannot compile {obstacle}"
    return True, f"on, {gpus} GPU(s)"


def compiled(function: Any) -> Any:
    """Return a function of tensors that XLA compiles, and finds in its cache in a later run."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        renumber_functions()
        return function(*arguments)

    return tf.function(traced, jit_compile=True, autograph=False)


def functions(update: Any, gradients: Any, jit: bool, *, in_place: bool) -> tuple[Any, Any]:
    """Return a step's update and its gradients, of which XLA compiles one, if any.

    `in_place`: the tables of a sampled head are updated inside the XLA function, so that it
    compiles the whole update. What replicas exchange stays outside, and so do tables that are not
    on the device: there it compiles all up to the gradients, and the update comes after.
    """
    if not jit:
        return update, gradients
    if in_place:
        return compiled(update), gradients
    return update, compiled(gradients)


def _obstacle(backbone: keras.Model) -> str:
    """Return what keeps XLA from compiling a training step of the backbone, or ""."""
    if not getattr(backbone, "inputs", None):
        return ""
    parts = [part for part in _operations(backbone) if type(part) not in _KNOWN]
    if not parts:
        return ""
    reason = _failure(backbone, input_structure(backbone), gradients=True)
    if not reason:
        return ""
    layers = [part for part in parts if isinstance(part, keras.layers.Layer) and part.built]
    culprits = [
        f"{type(layer).__name__} ({layer.name!r})"
        for layer in layers
        if _failure(layer, _input_of(layer), gradients=False)
    ]
    missing = sorted(set(re.findall(r"No registered '(\w+)'", reason)))
    why = reason.splitlines()[0][:_LONGEST_REASON]
    if missing:
        why = f"TensorFlow has no XLA kernel for {and_more(missing, _SHOWN)}"
    return f"{and_more(culprits, _SHOWN) or 'the backbone'}: {why}"


def _operations(network: keras.Model) -> list[Any]:
    """Return the layers of a network and of those inside it, and the operations between them."""
    layers = all_layers(network)
    containers = [network, *(layer for layer in layers if isinstance(layer, keras.Model))]
    others = [part for model in containers for part in getattr(model, "operations", ())]
    unique = {id(part): part for part in (*layers, *others)}
    return [part for part in unique.values() if not _is_container(part)]


def _is_container(part: Any) -> bool:
    return isinstance(part, keras.Model) and type(part).__module__.startswith("keras.")


def _input_of(part: Any) -> Any:
    """Return the symbolic input of a layer's first call; [] where it has had none."""
    try:
        return part.input
    except (AttributeError, ValueError):
        return []


def _failure(layer: Any, inputs: Any, *, gradients: bool) -> str:
    """Return why XLA cannot translate a training call, or "".

    The call is translated and not compiled further, which takes about as long as tracing it; no
    variable is read or written.
    """
    variables = list(layer.variables)
    images = [_specification(tensor) for tensor in keras.tree.flatten(inputs)]

    def step(*tensors: Any) -> list[Any]:
        values, given = tensors[: len(variables)], list(tensors[len(variables) :])
        mapping = list(zip(variables, values, strict=True))
        trained = [v for k, v in mapping if k.trainable] if gradients else []
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            keras.StatelessScope(state_mapping=mapping) as scope,
        ):
            tape.watch(trained)
            outputs = layer(keras.tree.pack_sequence_as(inputs, given), training=True)
        outputs = keras.tree.flatten(outputs)
        states = [scope.get_current_value(variable) for variable in variables]
        return [
            *outputs,
            *(state for state in states if state is not None),
            *(g for g in tape.gradient(outputs, trained) if g is not None),
        ]

    function = tf.function(step, jit_compile=True, autograph=False)
    specifications = [*(tf.TensorSpec(v.shape, v.dtype) for v in variables), *images]
    try:
        translate = function.experimental_get_compiler_ir(*specifications)
    except Exception:  # the call itself fails: training will say how, with XLA or without
        return ""
    try:
        translate(stage="hlo")
    except (tf.errors.OpError, ValueError) as caught:
        return str(caught)
    return ""


def _specification(tensor: Any) -> tf.TensorSpec:
    """Return shape and type for a batch of 2."""
    sides = [_UNKNOWN_SIDE if side is None else side for side in tensor.shape[1:]]
    return tf.TensorSpec([tensor.shape[0] or 2, *sides], tensor.dtype)
