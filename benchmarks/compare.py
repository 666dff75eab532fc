"""Time and memory of this library beside PyTorch's, on the same threads, in turns.

python benchmarks/compare.py                          everything, some 15 minutes on two cores
python benchmarks/compare.py head --classes 10575     one part, one size
python benchmarks/compare.py --quick                  whether it runs at all: two short turns each
python benchmarks/compare.py --side keras             without PyTorch

Each variant is a process of its own. The processes take turns, so that a busy moment of the machine
hits all of them; a ratio is the median over the turns. Writes a JSON file, prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import (
    HEAD_CLASSES,
    PARTS,
    Case,
    head_cases,
    machine_cases,
    only,
    pipeline_cases,
    train_cases,
)
from process import Worker, WorkerFailed
from table import tables


@dataclasses.dataclass
class Timing:
    """What was seen of one variant: a list of (wall, CPU) seconds for each turn; MB."""

    turns: list[list[list[float]]] = dataclasses.field(default_factory=list)
    imported: float = 0.0
    peak: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    error: str | None = None

    def finish(self, worker: Worker) -> None:
        """Stop the worker and keep its last words."""
        last = worker.stop()
        self.imported, self.peak = worker.imported, max(self.peak, last["peak"])
        self.versions = last["versions"]


def measure(case: Case, threads: int, rounds: int, seconds: float) -> dict[str, Timing]:
    """Let the variants of a case take turns.

    Args:
        case: what to measure.
        threads: for each process, and the cores that it may use.
        rounds: turns of each variant.
        seconds: about how long a turn lasts; at least one step.

    Returns:
        Timings by the variant's name; one whose process failed has an `error`.
    """
    timings = {variant.name: Timing() for variant in case.variants}
    rounds = rounds if case.together else min(rounds, 3)  # each needs new processes
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for turn in range(rounds):
            for variant in case.variants:
                timing = timings[variant.name]
                if timing.error:
                    continue
                try:
                    if variant.name not in workers:
                        worker = stack.enter_context(Worker(variant, threads))
                        worker.run(0.0, drain=1 if case.together else 0)  # traces, compiles
                        workers[variant.name] = worker
                    worker = workers[variant.name]
                    timing.turns.append(worker.run(seconds, drain=case.drain))
                    if not case.together or turn == rounds - 1:
                        timing.finish(workers.pop(variant.name))
                except WorkerFailed as error:
                    timing.error = str(error)
                    workers.pop(variant.name, None)
    return timings


def summarise(case: Case, timings: dict[str, Timing]) -> dict[str, Any]:
    """Return medians, and each variant's ratio to the best of the other side.

    A ratio above 1 says that the variant is faster. It is the median over the turns; the best of
    the other side is the one with the smallest median.
    """
    middle = statistics.mean if case.drain else statistics.median
    walls = {
        name: [middle([wall for wall, _ in turn]) for turn in timing.turns]
        for name, timing in timings.items()
        if timing.turns and not timing.error
    }
    sides = {variant.name: variant.side for variant in case.variants}
    result: dict[str, Any] = {"part": case.part, "case": case.name, "variants": []}
    for variant in case.variants:
        timing = timings[variant.name]
        row: dict[str, Any] = {"name": variant.name, "side": variant.side, "error": timing.error}
        result["variants"].append(row)
        if variant.name not in walls:
            continue
        wall = statistics.median(walls[variant.name])
        steps = [step for turn in timing.turns for step in turn]
        row |= {
            "milliseconds": 1e3 * wall,
            "cpu_milliseconds": 1e3 * middle([cpu for _, cpu in steps]),
            "turns_milliseconds": [1e3 * value for value in walls[variant.name]],
            "steps": len(steps),
            "imported_megabytes": timing.imported,
            "peak_megabytes": timing.peak,
            "versions": timing.versions,
        }
        if case.unit:
            row[f"{case.unit}_per_second"] = case.per_step / wall
        if case.gigaflop:
            row["gigaflops"] = case.gigaflop / wall
        others = [name for name in walls if sides[name] != variant.side]
        if others and variant.side == "keras":
            best = min(others, key=lambda name: statistics.median(walls[name]))
            ratios = [b / a for a, b in zip(walls[variant.name], walls[best], strict=True)]
            row |= {
                "against": best,
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "target": variant.target,
            }
    return result


def chosen_cases(arguments: argparse.Namespace, folder: str) -> Iterator[Case]:
    """Yield the cases that were asked for."""
    parts = arguments.part or PARTS
    small = arguments.tiny
    if "machine" in parts:
        yield from machine_cases(64 if small else 2048)
    if "head" in parts:
        size = {"batch": 8, "width": 16} if small else {}
        yield from head_cases(tuple(arguments.classes), **size)
    if "train" in parts:
        yield from train_cases(tuple(arguments.batch))
    if "pipeline" in parts:
        people = (4, 8) if small else (100, 20)
        worker = Worker.preparing(
            "faces", {"folder": folder, "people": people[0], "each": people[1]}
        )
        with worker:
            worker.stop()
        yield from pipeline_cases(folder, arguments.threads, batch=8 if small else 128)


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": model or platform.processor(),
        "threads": threads,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def usable_cores() -> int:
    """Return how many cores this process may use; where the system does not say, how many exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="by default all")
    parser.add_argument("--classes", type=int, nargs="+", default=HEAD_CLASSES)
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="of training")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, about")
    parser.add_argument("--side", choices=["keras", "torch"], help="one side alone")
    parser.add_argument("--quick", action="store_true", help="two turns of 0.1 s each")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # for the tests
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a former run's tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a variant failed."""
    arguments = build_parser().parse_args(argv)
    if arguments.show:
        print(tables(json.loads(arguments.show.read_text(encoding="utf-8"))))
        return 0
    rounds, seconds = (2, 0.1) if arguments.quick else (arguments.rounds, arguments.seconds)
    report: dict[str, Any] = {"machine": describe_machine(arguments.threads), "results": []}
    with tempfile.TemporaryDirectory() as folder:
        for whole in chosen_cases(arguments, folder):
            case = only(whole, arguments.side) if arguments.side else whole
            sys.stderr.write(f"{case.part}: {case.name}\n")
            timings = measure(case, arguments.threads, rounds, seconds)
            report["results"].append(summarise(case, timings))
            write(arguments.json, report)
    print(tables(report))
    failed = [v for r in report["results"] for v in r["variants"] if v["error"]]
    return 1 if failed else 0


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the report under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
