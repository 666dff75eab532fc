"""Flags of XLA that make the first training step on a GPU come sooner."""

from __future__ import annotations

import logging
import os

import tensorflow as tf

from tf_sphereface.utils import compile_cache, keras_private

logger = logging.getLogger("tf_sphereface")

VARIABLE = "XLA_FLAGS"
SEEN_IN = ("2.21",)  # versions of TensorFlow: XLA ends the process at a flag that it does not know
FLAGS = {
    # Else it compiles every fusion with a sum in it twice, one after the other, and times both.
    "xla_gpu_experimental_enable_fusion_autotuner": "false",
    # Choose kernels by their time alone (2), without comparing the results of all (4).
    "xla_gpu_autotune_level": "2",
    # Else it compiles dozens of kernels for each product, some two seconds, and times them beside
    # cuBLAS, which has its own ready.
    "xla_gpu_enable_triton_gemm": "false",
}
CACHES = ("xla_gpu_experimental_autotuner_cache_dir", "xla_gpu_per_fusion_autotune_cache_dir")
"""Where the choice of kernels is kept; some versions read the one and some the other."""


def tune_xla() -> tuple[str, ...]:
    """Set XLA's flags for a GPU, and return those that were set; the log names them.

    To be called before TensorFlow computes anything: XLA reads its flags once. Nothing is changed
    where there is no GPU, with a version of TensorFlow in which the flags were not seen, and where
    it comes too late; the log says so. A flag that `XLA_FLAGS` sets already stays as it is. The GPU
    is looked for, not started.

    Example:

    >>> flags = tune_xla()
    """
    if not tf.config.list_physical_devices("GPU"):
        logger.info("XLA's flags are left as they are: no GPU")
        return ()
    version = tf.__version__
    if ".".join(version.split(".")[:2]) not in SEEN_IN:
        logger.warning(
            "XLA's flags are left as they are: they were seen in TensorFlow %s, this is %s",
            ", ".join(SEEN_IN),
            version,
        )
        return ()
    if keras_private.is_tensorflow_started():
        logger.warning(
            "XLA's flags are left as they are: tune_xla() comes too late, TensorFlow has begun to "
            "compute; call it first"
        )
        return ()
    given = os.environ.get(VARIABLE, "")
    if given and not given.lstrip().startswith("-"):
        logger.warning("XLA's flags are left as they are: %s names a file, %s", VARIABLE, given)
        return ()
    wanted = dict(FLAGS)
    folder = compile_cache.started()
    if folder is not None and compile_cache.READ_ONLY not in os.environ[compile_cache.VARIABLE]:
        wanted |= dict.fromkeys(CACHES, str(folder))
    names = {flag.lstrip("-").partition("=")[0].removeprefix("no") for flag in given.split()}
    added = tuple(f"--{name}={value}" for name, value in wanted.items() if name not in names)
    os.environ[VARIABLE] = " ".join([*given.split(), *added])
    logger.info("XLA's flags for the GPU: %s", " ".join(added) or "all set by the user")
    return added
