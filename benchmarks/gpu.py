"""Training on a GPU: how fast it is beside PyTorch and the card's limits, and what is compiled.

    python benchmarks/gpu.py                           # nets, heads, input: at most 4 minutes each
    python benchmarks/gpu.py nets --networks MobileFaceNet --precision bfloat16
    python benchmarks/gpu.py nets --depthwise grouped  # MobileFaceNet's 3x3 layers in both forms
    python benchmarks/gpu.py --tiny                    # a rehearsal on a CPU
    python benchmarks/gpu.py --hlo                     # without a GPU: the programs that XLA gets
    python benchmarks/gpu.py --hlo --depthwise grouped
    python benchmarks/gpu.py --hlo --tiny              # in seconds
    python benchmarks/gpu.py --hlo --sample-rate 0.1 --classes 1000000 --networks SphereFaceNet-4

Each side is a process of its own: they warm up side by side, as many as the card's memory holds,
and are timed in turn. One that fails is named, and the rest goes on. Prints the tables of
docs/results/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gpu_table
from cards import CARDS
from cases import image_size
from gpu_cases import (
    KERAS,
    MAP_VALUES,
    PARTS,
    PRECISIONS,
    TINY,
    GpuCase,
    Setting,
    head_cases,
    input_cases,
    network_cases,
)
from gpu_turns import Limits, Result, measure
from process import Worker, WorkerFailed

POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16", "float32": "float32"}


def card_name() -> str:
    """Return the first card's name as the driver gives it, "" without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""


def setting_of(line: argparse.Namespace) -> Setting:
    """Return what a command line asks for."""
    setting = TINY if line.tiny else Setting(workers=max(1, min(16, os.cpu_count() or 1) - 2))
    asked = {
        "networks": tuple(line.networks or ()),
        "precisions": tuple(line.precision or ()),
        "batch": line.batch,
        "head_classes": tuple(line.classes or ()),
        "grouped": line.depthwise == "grouped",
    }
    return dataclasses.replace(setting, **{name: x for name, x in asked.items() if x})


def timings(line: argparse.Namespace) -> list[dict[str, object]]:
    """Measure the parts, and return the rows of their tables."""
    setting, card = setting_of(line), CARDS.get(card_name())
    limits = Limits(line.minutes, torch_python=line.torch_python)
    if card:
        limits.memory = card.memory
    if line.tiny:
        limits = dataclasses.replace(limits, seconds=0.0, rounds=2, memory=200.0, warm=300.0)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder, "compiled"))
        for part in line.part or PARTS:
            sys.stderr.write(f"{part}\n")
            cases = cases_of(part, setting, cache, folder)
            if line.side:
                cases = [_of_side(case, line.side) for case in cases]
            keep = functools.partial(_keep, line.json, results)
            results += measure(cases, limits, keep)
            keep([])
    return gpu_table.rows(results)


def _keep(path: Path | None, before: list[Result], found: list[Result]) -> None:
    """Write what there is so far."""
    if path:
        write(path, gpu_table.rows([*before, *found]))


def _of_side(case: GpuCase, side: str) -> GpuCase:
    """Return the case with the variants of one side."""
    chosen = tuple(v for v in case.variants if (v.side == KERAS) == (side == "keras"))
    return dataclasses.replace(case, variants=chosen)


def cases_of(part: str, setting: Setting, cache: str, folder: str) -> list[GpuCase]:
    """Return a part's cases; the faces of `input` are written first."""
    if part == "nets":
        return network_cases(setting, cache)
    if part == "heads":
        return head_cases(setting, cache)
    faces = {"folder": folder, "people": setting.people, "each": setting.each}
    # Where it fails, those who need them say so, and the rest is measured.
    with contextlib.suppress(WorkerFailed), Worker.preparing("faces", faces) as worker:
        worker.stop()
    return input_cases(setting, cache, folder)


def write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows as JSON, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def programs(line: argparse.Namespace) -> list[dict[str, object]]:
    """Return the counts of the training step of each network."""
    import hlo
    import keras

    setting = Setting(networks=("MobileFaceNet",), classes=10, batch=2) if line.tiny else Setting()
    hlo.use_depthwise(line.depthwise)
    rows = []
    for network in line.networks or setting.networks:
        size = (32, 32) if line.tiny else image_size(network)
        for precision in line.precision or (["bfloat16"] if line.tiny else PRECISIONS):
            keras.utils.clear_session()
            keras.config.set_dtype_policy(POLICIES[precision])
            classes = line.classes[0] if line.classes else setting.classes
            model = hlo.classifier(network, classes, size, line.sample_rate)
            program = hlo.step_program(model, line.batch or setting.batch)
            found = hlo.counts(program, classes)
            rows.append({"network": network, "precision": precision, **found})
            print(f"{network} {precision}: {found}", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    shown = [[f"{x:,}" if isinstance(x, int) else str(x) for x in cells] for cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", nargs="*", choices=[[], *PARTS], help="by default all")
    add("--hlo", action="store_true", help="count what XLA would compile; no part is measured")
    add("--tiny", action="store_true", help="a rehearsal on a CPU")
    add("--networks", nargs="+", choices=sorted(MAP_VALUES))
    add("--precision", nargs="+", choices=sorted(POLICIES))
    add("--classes", type=int, nargs="+", help="of the heads; the first for --hlo")
    add("--batch", type=int, help="examples in a step; 256, or 2 with --tiny")
    add("--side", choices=["keras", "torch"], help="one side alone")
    add("--minutes", type=float, default=4.0, help="of a part; the rest is named, not measured")
    add("--torch-python", metavar="PYTHON", help="PyTorch's interpreter, if not this one")
    add("--depthwise", choices=("shifted", "grouped"), default="shifted", help="form of 3x3")
    add("--sample-rate", type=float, default=1.0, help="of the head, for --hlo")
    add("--json", type=Path, help="also write the rows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; 1 if nothing could be measured."""
    line = build_parser().parse_args(argv)
    rows = programs(line) if line.hlo else timings(line)
    print(table(rows) if line.hlo else gpu_table.tables(rows))
    if line.json:
        write(line.json, rows)
    return 0 if any("error" not in row for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
