"""Graphs as they were traced: without Grappler, TensorFlow's optimizer of graphs.

A test runs a graph for a few steps, so that to optimize it costs more than it gains: an eighth of
the suite's time. Processes of the tests have it on, as users have; a test that compares such a
process with this one, to the bit, asks for the fixture `grappler`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def turn_off_grappler(disable: bool = True) -> None:
    """Let every graph that is run first from now on be run as it is, or optimized again."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": disable})


@contextlib.contextmanager
def with_grappler() -> Iterator[None]:
    """Optimize graphs in here."""
    turn_off_grappler(False)
    yield
    turn_off_grappler()
