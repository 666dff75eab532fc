"""XLA's programs on a CPU without LLVM's own optimizations: a seventh of the time of XLA's tests.

XLA's passes are those of users; only what LLVM makes of each fused loop is left as it is. Processes
that tests start have all of them, but for those of the fork server, which are compared with this
one to the bit.
"""

from __future__ import annotations

import os

import tensorflow as tf

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def leave_out_llvm_passes() -> None:
    """Let XLA, which reads its flags once, read these; a user's own come last and win."""
    given = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{FLAGS} {given or ''}"
    try:
        tf.function(tf.identity, jit_compile=True)(0.0)
    finally:
        del os.environ["XLA_FLAGS"]
        if given is not None:
            os.environ["XLA_FLAGS"] = given
