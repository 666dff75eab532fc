"""Training on a GPU: what is compiled, and how fast it is.

    python benchmarks/gpu.py --hlo                     # without a GPU: the programs that XLA gets
    python benchmarks/gpu.py --hlo --depthwise shifted
    python benchmarks/gpu.py --hlo --tiny              # in seconds

Prints the table of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hlo
import keras

POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16", "float32": "float32"}
TINY = {"networks": ["MobileFaceNet"], "classes": 10, "size": (32, 32), "batch": 2}
FULL = {"networks": list(hlo.NETWORKS), "classes": 10_575, "size": (112, 96), "batch": 256}


def programs(line: argparse.Namespace) -> list[dict[str, object]]:
    """Return the counts of the training step of each network."""
    setting = TINY if line.tiny else FULL
    if line.depthwise == "shifted":
        hlo.use_shifted_convolutions()
    rows = []
    for network in line.networks or setting["networks"]:
        size = (112, 112) if network.startswith("IResNet") else setting["size"]
        for precision in line.precision or (["bfloat16"] if line.tiny else list(POLICIES)):
            keras.utils.clear_session()
            keras.config.set_dtype_policy(POLICIES[precision])
            model = hlo.classifier(network, setting["classes"], size, line.sample_rate)
            program = hlo.step_program(model, line.batch or setting["batch"])
            found = hlo.counts(program, setting["classes"])
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
    add("--hlo", action="store_true", required=True, help="count what XLA would compile")
    add("--tiny", action="store_true", help="a rehearsal on a CPU")
    add("--networks", nargs="+", choices=sorted(hlo.NETWORKS))
    add("--precision", nargs="+", choices=sorted(POLICIES))
    add("--depthwise", choices=("table", "shifted"), default="table", help="3x3 convolutions")
    add("--sample-rate", type=float, default=1.0, help="of the head")
    add("--batch", type=int, help="examples in a step; 256, or 2 with --tiny")
    add("--json", type=Path, help="also write the rows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    line = build_parser().parse_args(argv)
    rows = programs(line)
    print(table(rows))
    if line.json:
        line.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
