"""Types that the processor or the GPUs of this machine multiply fast."""

from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf

# Linux' names for the instructions that multiply bfloat16 faster than float32: tiles, or on
# AMD's processors vectors. Intel's vectors alone are slower in it (docs/results/benchmarks.md).
BFLOAT16_TILES, BFLOAT16_VECTORS, AMD = "amx_bf16", "avx512_bf16", "AuthenticAMD"
BFLOAT16_CAPABILITY = (8, 0)  # of NVIDIA's GPUs: Ampere and later


def has_bfloat16() -> bool:
    """Whether training in bfloat16 pays: all GPUs multiply it, or without GPUs the processor does.

    On other systems than Linux the processor's features are unknown: assume no bfloat16, since
    float32 is never slow.
    """
    capabilities = gpu_capabilities()
    if capabilities:
        return all(capability >= BFLOAT16_CAPABILITY for capability in capabilities)
    features = processor_features()
    return BFLOAT16_TILES in features or {BFLOAT16_VECTORS, AMD} <= features


def free_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes of memory a process may still take; None where that is not known.

    The memory that Linux calls available, or what the limit of a container leaves.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(v.split()[1]) for v in lines if v.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    group = root / "sys/fs/cgroup"
    try:
        limit, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # no limit: the file says "max"
        return free
    cache = sum(int(v.split()[1]) for v in lines if v.startswith("inactive_file "))
    return min(free, max(limit - used + cache, 0))


def lack_of_memory(size: int) -> str | None:
    """Say how much of `size` bytes is missing; None where they are free, or that is not known."""
    free = free_memory()
    if free is None or size <= free:
        return None
    return f"{size / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"


def gpu_capabilities() -> list[tuple[int, ...]]:
    """Return the compute capability of each NVIDIA GPU, such as (8, 0); () for an unknown one."""
    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [tuple(details(gpu).get("compute_capability", ())) for gpu in gpus]


@functools.cache
def processor_features(listing: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the first processor's features and its vendor by Linux' names; else nothing."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    vendor: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "vendor_id":
            vendor = [value.strip()]
        if name.strip() in ("flags", "Features"):  # of x86, of ARM
            return frozenset([*vendor, *value.split()])
    return frozenset()
