"""Types that the processor or the GPUs of this machine multiply fast."""

from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf

# Linux' names for the instructions that multiply bfloat16. Without them TensorFlow's convolutions
# in bfloat16 are several times slower than in float32 (docs/results/benchmarks.md).
BFLOAT16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})
BFLOAT16_CAPABILITY = (8, 0)  # of NVIDIA's GPUs: Ampere and later


def has_bfloat16() -> bool:
    """Whether training in bfloat16 pays: all GPUs multiply it, or without GPUs the processor does.

    On other systems than Linux the processor's features are unknown: assume no bfloat16, since
    float32 is never slow.
    """
    capabilities = gpu_capabilities()
    if capabilities:
        return all(capability >= BFLOAT16_CAPABILITY for capability in capabilities)
    return bool(BFLOAT16_FEATURES & processor_features())


def gpu_capabilities() -> list[tuple[int, ...]]:
    """Return the compute capability of each NVIDIA GPU, such as (8, 0); () for an unknown one."""
    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [tuple(details(gpu).get("compute_capability", ())) for gpu in gpus]


@functools.cache
def processor_features(listing: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the first processor's features by Linux' names; nothing on other systems."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # of x86, of ARM
            return frozenset(value.split())
    return frozenset()
