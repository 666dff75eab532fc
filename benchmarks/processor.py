"""The gain of a processor from oneDNN, from bfloat16, and from one training per core.

Each way of training is a process of its own on the same cores; they take turns, so that a busy
moment of the machine hits all of them. Ratios are medians over the turns.

python benchmarks/processor.py                       some minutes
python benchmarks/processor.py --networks SphereFaceNet-4 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import Variant
from compare import describe_machine, usable_cores
from process import Worker

BATCHES = {"SphereFaceNet-4": 64, "SphereFaceNet-20": 16, "MobileFaceNet": 32}
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
WAYS = (  # (name, dtype, oneDNN); the first is what the others are compared with
    ("float32, oneDNN", "float32", "1"),
    ("float32, without oneDNN", "float32", "0"),
    ("bfloat16, oneDNN", "bfloat16", "1"),
)


def variant(network: str, dtype: str) -> Variant:
    """Return a training step of a network, which is at 112x96, SphereFaceNet-4 at 56x48."""
    options = {"network": network, "dtype": dtype, "batch": BATCHES[network], "num_classes": 1000}
    return Variant(f"{network}, {dtype}", "keras", "train", options)


def step_time(worker: Worker, seconds: float) -> float:
    """Return the median time of a turn's steps."""
    return statistics.median(wall for wall, _ in worker.run(seconds))


def compare_ways(network: str, threads: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return seconds of a step, a turn each, of the ways of `WAYS`."""
    with ExitStack() as stack:
        workers = {}
        for name, dtype, onednn in WAYS:
            worker = Worker(variant(network, dtype), threads, environment={ONEDNN: onednn})
            workers[name] = stack.enter_context(worker)
            worker.run(0.0, drain=1)  # traces
        turns: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                turns[name].append(step_time(worker, seconds))
    return turns


def compare_jobs(network: str, cores: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return seconds of a step for one process on all cores, and for one process per core.

    The second is divided by the number of processes: it is the time after which one more step of
    any of them is done.
    """
    step = variant(network, "float32")
    with ExitStack() as stack:
        alone = stack.enter_context(Worker(step, cores))
        single = [stack.enter_context(Worker(step, 1, first_core=core)) for core in range(cores)]
        pool = stack.enter_context(ThreadPoolExecutor(cores))
        for worker in (alone, *single):
            worker.run(0.0, drain=1)
        turns: dict[str, list[float]] = {"one on all cores": [], "one per core": []}
        for _ in range(rounds):
            turns["one on all cores"].append(step_time(alone, seconds))
            times = list(pool.map(lambda worker: step_time(worker, seconds), single))
            turns["one per core"].append(1 / sum(1 / time for time in times))
    return turns


def rows_of(network: str, turns: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row for each way: milliseconds, and the time over that of the first one."""
    first = next(iter(turns.values()))
    rows = []
    for name, times in turns.items():
        ratios = [time / base for time, base in zip(times, first, strict=True)]
        rows.append(
            {
                "network": f"{network}, batch {BATCHES[network]}",
                "way": name,
                "milliseconds": 1e3 * statistics.median(times),
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
        )
    return rows


def features() -> list[str]:
    """Return those of `FEATURES` that the processor has, as Linux tells."""
    from tf_sphereface.utils.hardware import processor_features

    return [name for name in FEATURES if name in processor_features()]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table in Markdown, and write JSON where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn, about")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    machine = {**describe_machine(arguments.threads), "features": features()}
    print(f"{machine['processor']}, {machine['threads']} cores: {', '.join(machine['features'])}")
    print(f"load before: {machine['load_before']}\n")
    print("| network | way | ms per step | times the first's | range |\n|---|---|---|---|---|")
    rows = []
    for network in arguments.networks:
        for compare in (compare_ways, compare_jobs):
            turns = compare(network, arguments.threads, arguments.rounds, arguments.seconds)
            for row in rows_of(network, turns):
                rows.append(row)
                low, high = row["range"]
                print(
                    f"| {row['network']} | {row['way']} | {row['milliseconds']:.0f} | "
                    f"{row['ratio']:.2f} | {low:.2f} to {high:.2f} |",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
