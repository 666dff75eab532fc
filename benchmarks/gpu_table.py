"""The results of gpu.py as rows and as the tables of docs/results/gpu.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from cards import CARDS
from gpu_turns import Result

TITLES = {
    "nets": "Training steps, the batch on the device",
    "heads": "Head and loss: gradients and update",
    "input": "`fit` from several sources",
}


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return what is printed, as JSON can hold it; a step's time is the median over its turns."""
    return [_row(result) for result in results]


def _row(result: Result) -> dict[str, Any]:
    case, variant = result.case, result.variant
    row: dict[str, Any] = {"part": case.part, "case": case.name, "variant": variant.name}
    if result.error or not result.turns:
        return row | {"error": result.error or "nothing was measured"}
    seconds = statistics.median(result.turns)
    row |= {
        "milliseconds": 1e3 * seconds,
        "turns_milliseconds": [1e3 * value for value in result.turns],
        "first_step_seconds": result.first,
        "cached_first_step_seconds": result.cached,
        "peak_gigabytes": _gigabytes(result.facts.get("peak_device")),
        "card": result.facts.get("card", ""),
        "versions": result.facts.get("versions", {}),
    }
    if case.unit:
        row["images_per_second"] = case.per_step / seconds
    work, card = case.work_of(variant.name), CARDS.get(row["card"])
    least = work.seconds(card) if work and card else None
    if work and case.part == "nets":
        row["teraflops"] = 1e-12 * work.operations / seconds
    if least:
        row |= {
            "limit_milliseconds": 1e3 * least[0],
            "limited_by": least[1],
            "share": least[0] / seconds,
        }
    return row


def _gigabytes(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes / 1e3


def tables(found: Sequence[dict[str, Any]]) -> str:
    """Return a table for each part, under a line with cards and versions."""
    cards = {row["card"] or "CPU" for row in found if "card" in row}
    unknown = ", ".join(sorted(cards - {"CPU"} - set(CARDS)))
    versions = {f"{n} {v}" for row in found for n, v in row.get("versions", {}).items()}
    lines = [
        f"*Measured here* on {', '.join(sorted(cards)) or 'nothing'}; "
        + ", ".join(sorted(versions))
        + (f"; the limit of {unknown} is not known" if unknown else "")
    ]
    for part, title in TITLES.items():
        of_part = [row for row in found if row["part"] == part]
        if of_part:
            lines += ["", f"### {title}", "", *_table(part, of_part)]
    return "\n".join(lines)


def _table(part: str, found: Sequence[dict[str, Any]]) -> list[str]:
    heading = ["", "", "ms" if part == "heads" else "images/s"]
    heading += ["limit", "share of it"]
    heading += ["TFLOP/s"] if part == "nets" else []
    heading += ["peak GB", "first step s"]
    heading += ["cached"] if part == "nets" else []
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    for row in found:
        cells = [row["case"], row["variant"]]
        cells += [row["error"]] if "error" in row else _cells(part, row)
        cells += [""] * (len(heading) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(part: str, row: dict[str, Any]) -> list[str]:
    if part == "heads":
        cells = [_number(row["milliseconds"])]
        limit = row.get("limit_milliseconds")
    else:
        cells = [_number(row["images_per_second"])]
        limit = row["images_per_second"] / row["share"] if "share" in row else None
    bound = f" ({row['limited_by']})" if limit else ""
    cells += [_number(limit) + bound, f"{row['share']:.0%}" if limit else ""]
    cells += [_number(row["teraflops"])] if part == "nets" else []
    cells += [_number(row["peak_gigabytes"]), _number(row["first_step_seconds"])]
    return cells + ([_number(row["cached_first_step_seconds"])] if part == "nets" else [])


def _number(value: float | None) -> str:
    """Return three significant digits, with thousands marked; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
