"""Graphs as they were traced: without Grappler, TensorFlow's optimizer of graphs.

A test runs a graph for a few steps, so that to optimize it costs more than it gains: a twelfth of
the suite's time. Processes that tests start have it on, as users have, but for those of the fork
server, which are compared with this one to the bit.
"""

from __future__ import annotations

import tensorflow as tf


def turn_off_grappler() -> None:
    """Let every graph that is run first from now on be run as it is."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
