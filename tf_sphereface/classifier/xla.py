"""The choice between XLA and TensorFlow's own kernels for a training step, and its reason."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_sphereface.utils.checks import error
from tf_sphereface.utils.keras_private import all_layers


def decide(
    jit_compile: bool | str, run_eagerly: bool, backbone: keras.Model, replicas: int
) -> tuple[bool, str]:
    """Return whether the step runs under XLA, and the reason in words."""
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
    if jit_compile is True:
        if synchronised:
            raise ValueError(
                "jit_compile=True cannot be had with synchronised batch normalisation over "
                f"{replicas} replicas: it sums over the replicas in the middle of the step, where "
                "XLA has no such sum. Use jit_compile=False, or BatchNormalization("
                f"synchronized=False). Received: synchronised layers {synchronised[:5]}"
            )
        return True, "on, jit_compile=True"
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus:
        return False, "off, no GPU (on a CPU it is slower than without)"
    if is_debugged():
        return False, "off, TensorFlow's debugging is on, which XLA cannot compile"
    if synchronised:
        return False, f"off, {len(synchronised)} synchronised batch normalisations over replicas"
    return True, f"on, {gpus} GPU(s)"


def is_debugged() -> bool:
    """Tell whether TensorFlow adds checks to the graphs that it traces, which XLA cannot compile.

    So do `tf.debugging.enable_check_numerics` and its like, in the thread that calls them.
    """
    probe = tf.function(tf.sqrt, autograph=False)
    graph = probe.get_concrete_function(tf.TensorSpec((), tf.float32)).graph
    return any("Debug" in op.type or "CheckNumerics" in op.type for op in graph.get_operations())
