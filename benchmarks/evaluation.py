"""The time and memory of evaluating pairs, and of a search among a million strangers.

python benchmarks/evaluation.py pairs                     6,000 and 1,000,000 scored pairs
python benchmarks/evaluation.py identify --gallery 1000000 --probes 500
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tf_sphereface.eval import identification, verification


def pairs(count: int) -> None:
    """Evaluate scores of so many pairs, ten folds, five times."""
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], count // 20), 10)
    scores = np.clip(rng.normal(0, 0.12, count) + 0.5 * same, -1, 1)
    folds = np.repeat(np.arange(1, 11), count // 10)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        verification.evaluate(scores, same, folds)
        times.append(time.perf_counter() - start)
    print(
        f"{count:>9,} pairs: {1000 * min(times):,.0f} ms at best, {1000 * max(times):,.0f} at worst"
    )


def identify(gallery: int, probes: int, dim: int) -> None:
    """Search probes, five images a person, among so many random strangers in a file."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        strangers = np.lib.format.open_memmap(path, "w+", np.float32, (gallery, dim))
        for start in range(0, gallery, 10_000):
            part = strangers[start : start + 10_000]
            part[:] = rng.standard_normal(part.shape, np.float32)
        del strangers, part  # both map the file
        centres = np.repeat(rng.standard_normal((probes // 5, dim)), 5, axis=0)
        people = (centres + 2 * rng.standard_normal(centres.shape)).astype(np.float32)
        labels = np.repeat(np.arange(probes // 5), 5)
        before = peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        found = identification.with_distractors(people, labels, np.load(path, mmap_mode="r"))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory()
    print(f"{probes:,} probes among {gallery:,} x {dim}: {wall:.0f} s, {cpu:.0f} s of CPU time")
    if math.isfinite(peak):
        print(f"  resident memory: {before:.2f} GB before, {peak:.2f} GB at most")
    print(f"  {found.num_searches:,} searches; rank 1: {found.rates[gallery][1]:.4f}")
    print(f"  TAR at FAR: {found.verification.rates}")


def peak_memory() -> float:
    """Return the most memory this process has held, in GB; NaN on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pairs", "identify"))
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    if args.what == "pairs":
        for count in (6_000, 1_000_000):
            pairs(count)
    else:
        identify(args.gallery, args.probes, args.dim)


if __name__ == "__main__":
    main()
