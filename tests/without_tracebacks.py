"""Graphs whose operations do not note where they were made.

TensorFlow walks the whole stack for each operation of each graph, all of pytest's frames and of
Keras', for the sake of an error's "Detected at node": a fourteenth of the time of small tests.
"""

from __future__ import annotations

import os

from tensorflow.python.framework import ops
from tensorflow.python.util import tf_stack

VARIABLE = "TF_SPHEREFACE_TEST_TRACEBACKS"


def share_one_traceback() -> None:
    """Let all operations name this place as theirs, unless `TF_SPHEREFACE_TEST_TRACEBACKS` is 1."""
    if os.environ.get(VARIABLE) != "1":
        trace = tf_stack.extract_stack()
        ops.tf_stack.extract_stack = lambda stacklevel=1: trace
