"""tf.data without the thread that tunes its pipelines, whose end can take half a minute.

The thread sleeps between its turns, for up to a minute in a pipeline that has lived for long. It is
woken where the pipeline ends, and looks whether it is to stop, before TensorFlow 2.21 has noted so:
then it sleeps again, and all wait (tensorflow/core/framework/model.cc, `Model::OptimizeLoop`, and
cancellation.cc, `StartCancelWithStatus`). About one end in eight is such a one.
"""

from __future__ import annotations

import tensorflow as tf


def turn_off_autotuner() -> None:
    """Let every pipeline of this process run without it, those that Keras makes too."""
    before = tf.data.Dataset._apply_debug_options
    options = tf.data.Options()
    options.autotune.enabled = False
    tf.data.Dataset._apply_debug_options = lambda self: before(self).with_options(options)
