"""TensorFlow's debugging, which changes the graphs that are traced."""

from __future__ import annotations

import tensorflow as tf


def is_debugged() -> bool:
    """Tell whether TensorFlow adds checks to the graphs that it traces, which XLA cannot compile.

    So do `tf.debugging.enable_check_numerics` and its like, in the thread that calls them.
    """
    probe = tf.function(tf.sqrt, autograph=False)
    graph = probe.get_concrete_function(tf.TensorSpec((), tf.float32)).graph
    return any("Debug" in op.type or "CheckNumerics" in op.type for op in graph.get_operations())
